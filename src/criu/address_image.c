/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "criu/address_image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define SAVED_ADDRESSES_MAGIC 0x47361222U
#define IMAGE_MAX (16U << 20)

/* One RTM_NEWADDR: flags stand in the header (8 bits of them) and, where there are more, in an attribute that counts.
 */
static int settle_message(struct nlmsghdr *h)
{
        if (h->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifaddrmsg)))
                return -EBADMSG;
        struct ifaddrmsg *address = NLMSG_DATA(h);
        if (address->ifa_family != AF_INET6)
                return 0;

        address->ifa_flags |= IFA_F_NODAD;
        address->ifa_flags &= (uint8_t)~IFA_F_TENTATIVE;
        int left = (int)IFA_PAYLOAD(h);
        for (struct rtattr *a = IFA_RTA(address); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
                uint32_t flags;
                if (a->rta_type != IFA_FLAGS || RTA_PAYLOAD(a) != sizeof(flags))
                        continue;
                memcpy(&flags, RTA_DATA(a), sizeof(flags));
                flags = (flags | IFA_F_NODAD) & ~(uint32_t)(IFA_F_TENTATIVE | IFA_F_DADFAILED);
                memcpy(RTA_DATA(a), &flags, sizeof(flags));
        }
        return 1;
}

static int settle_image(char *image, size_t size)
{
        uint32_t magic;
        int found = 0;

        if (size == 0)
                return 0;
        if (size < sizeof(magic))
                return -EBADMSG;
        memcpy(&magic, image, sizeof(magic));
        if (magic != SAVED_ADDRESSES_MAGIC)
                return -EBADMSG;

        for (size_t at = sizeof(magic); at < size;) {
                struct nlmsghdr h;
                if (size - at < sizeof(h))
                        return -EBADMSG;
                memcpy(&h, image + at, sizeof(h));
                if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > size - at)
                        return -EBADMSG;
                /* Messages lie behind a magic of four bytes, which is all the alignment they need. */
                if (h.nlmsg_type == RTM_NEWADDR) {
                        int r = settle_message((struct nlmsghdr *)(void *)(image + at));
                        if (r < 0)
                                return r;
                        found += r;
                }
                size_t step = NLMSG_ALIGN(h.nlmsg_len);
                at += step < size - at ? step : size - at;
        }
        return found;
}

int criu_images_settle_addresses(int images_fd, struct error *err)
{
        int found = 0;

        int fd = openat(images_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return error_errno(err, errno, "cannot read the images");
        AUTO_DIR DIR *dir = fdopendir(fd);
        if (!dir) {
                (void)close(fd);
                return error_set(err, ENOMEM, "out of memory");
        }
        for (const struct dirent *e; (e = readdir(dir));) {
                AUTO_FREE char *image = NULL;
                size_t size;

                if (strncmp(e->d_name, "ifaddr-", 7) != 0)
                        continue;
                int r = fd_read_file(images_fd, e->d_name, IMAGE_MAX, &image, &size);
                if (r == 0)
                        r = settle_image(image, size);
                if (r > 0) {
                        found += r;
                        AUTO_FD int out = openat(images_fd, e->d_name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
                        r = out < 0 ? -errno : fd_write_all(out, image, size);
                }
                if (r < 0)
                        return error_errno(err, -r, "the image %s", e->d_name);
        }
        return found;
}
