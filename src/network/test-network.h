/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Tests of the hooks, run by test-network.c. */
int test_hooks(void);
