/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "session/session.h"

/*
 * Ask the source's phauld, over a query connection, for the last durable handover record of this migration: for a
 * target that holds a prepared copy and has lost the control link. Blocks in the loop for at most a few seconds. *ret
 * is "" when the source has recorded no decision yet. Negative errno when there was no answer: that decides nothing.
 */
int ask_handover(struct session *s, char *ret, size_t size);
