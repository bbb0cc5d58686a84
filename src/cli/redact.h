/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>

/*
 * Taking out of a text what may be a secret, before it leaves the host in a bug report. When in doubt it goes: a report
 * that lacks a line can be asked about, a password that was mailed around cannot be called back.
 */

/*
 * A copy of `text` in which these are replaced: PEM blocks; codes of pairing; what is given to a name that sounds like
 * a secret ("password=…", "token: …", "--secret …"), up to the end of the line; user and password of an URL. Control
 * characters but newline and tab become '?'. Caller frees; NULL when out of memory.
 */
char *redact_text(const char *text);

/* The same of a container's configuration: a value is shown only if its key can hold no secret, comments are not. */
char *redact_lxc_config(const char *text);

/*
 * Every string of `value`, in place: as redact_text(), and by the key it stands under, whole: secrets, environments,
 * command lines. A string that is itself a JSON object is redacted as one. 0 or -ENOMEM, after which it must not be
 * used.
 */
int redact_json(json_t *value);
