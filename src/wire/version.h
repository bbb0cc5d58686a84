/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "wire/link.h"

/* wire_negotiate() with a range of one's own, so that tests can be a later phaul. */
int wire_negotiate_range(uint32_t own_min, uint32_t own_max, uint32_t peer_min, uint32_t peer_max, uint32_t *ret,
                         struct error *err);
