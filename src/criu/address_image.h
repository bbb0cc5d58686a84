/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/error.h"

/*
 * A restored IPv6 address would be tentative until duplicate detection has run, for a second or more, and a TCP socket
 * cannot be bound to a tentative address: the restore fails. The workload has held its addresses all along, so the
 * images say "no duplicate detection" before they are restored.
 *
 * ifaddr-N.img is what `ip addr save` wrote (iproute2, ip/ipaddress.c): a magic number, then RTM_NEWADDR messages as
 * the kernel dumped them. Each IPv6 address gets IFA_F_NODAD. Returns the number of addresses; -EBADMSG when a file is
 * not what it should be (the images came from the other host).
 */
int criu_images_settle_addresses(int images_fd, struct error *err);
