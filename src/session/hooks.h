/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "network/network.h"
#include "session/session.h"

/*
 * Run what is configured for this event (network_hooks()) on behalf of this migration. What fails is a warning in the
 * log, never a reason to stop. Blocks for as long as the hooks take.
 */
void session_hooks(struct session *s, enum network_event event);
