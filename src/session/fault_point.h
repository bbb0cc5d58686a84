/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "session/session.h"

/*
 * Named places at which tests make a session wait, so that something can be done to it there: killed, cut off,
 * cancelled. Built in only with -Dfault_points=true, as the lab builds it. A session that comes to the place
 * "source-freeze" waits while the file RUNTIME/faults/source-freeze exists, for at most three minutes, with its loop
 * running; a cancel, a lost link and a failure of the far side end the wait, as they would end any other. Others make
 * it do something wrong, if the file is there when it comes to them: fault_is_wanted().
 */
#ifdef PHAUL_FAULT_POINTS
void fault_point(struct session *s, const char *place);
bool fault_is_wanted(const struct session *s, const char *place);
#else
static inline void fault_point(struct session *s, const char *place)
{
        (void)s;
        (void)place;
}

static inline bool fault_is_wanted(const struct session *s, const char *place)
{
        (void)s;
        (void)place;
        return false;
}
#endif
