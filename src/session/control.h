/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "session/session.h"

/*
 * The socket at which phauld (again after its own restart) finds this session: SEQPACKET, one JSON object per packet,
 * at most 64 KiB. See session/protocol.h for what is said there. Only root may connect.
 */
int control_new(struct session *s, struct error *err);
void control_free(struct session_control *c);

/* To everyone connected; `object` is taken over. Never blocks, never fails the migration: a full watcher is dropped. */
void control_event(struct session *s, json_t *object);
