/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/cleanup.h"
#include "base/error.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The near end of CRIU's page-server protocol: `criu dump` connects to us instead of writing pages-*.img, and each
 * batch of pages goes to a sink (memory/image_stream.h carries it to the other host). Accepts the 24-byte header of
 * CRIU up to 4.1.1 and the 32-byte one of 4.2 (criu/page-xfer.c, struct page_server_iov), told apart at the first
 * command. x86-64 and other little-endian machines of 64 bits.
 *
 * The connection is one of our socket pairs, AF_UNIX and SOCK_STREAM: CRIU splices pages into it as into TCP, and only
 * logs a warning that TCP_CORK and TCP_NODELAY do not exist there.
 */
struct page_server;

/* Which image the pages belong to: CRIU's dst_id, (id << 8 | type) with type 1 a process's pagemap, 2 shared memory. */
struct page_batch {
        uint64_t image;
        uint64_t vaddr;   /* page-aligned */
        uint32_t n_pages; /* at most PAGE_BATCH_MAX */
        uint32_t flags;   /* PE_PRESENT and friends, as CRIU's pagemap image has them */
};
#define PAGE_BATCH_MAX 255U /* pages; 1 MiB together with a page that says where they belong */
#define PAGE_BYTES 4096U

/* Flags of a batch, values of CRIU's pagemap image. */
enum { PE_PARENT = 1, PE_LAZY = 2, PE_PRESENT = 4 };

/* Types of page images, the low 8 bits of page_batch.image. */
enum { PAGE_IMAGE_TASK = 1, PAGE_IMAGE_SHMEM = 2 };
#define PAGE_IMAGE(type, id) ((uint64_t)(id) << 8 | (type))

/* Whether `image` names something CRIU could have: a known type and a pid or id that is possible. */
bool page_image_is_valid(uint64_t image);

/*
 * Where the pages go. Each call but done() may fail with a negative errno, which ends the session: the connection is
 * cut, CRIU's dump fails and the tasks go on.
 */
struct page_sink {
        /* Memory for the bytes of the next batch, or -EAGAIN: page_server_resume() is called later. */
        int (*reserve)(const struct page_batch *batch, void **ret_data, void *context);
        /* The reserved memory holds that batch's pages (none for a batch without PE_PRESENT). */
        int (*commit)(const struct page_batch *batch, void *context);
        /* CRIU opened an image (before its first batch). -EAGAIN as with reserve(). */
        int (*open)(uint64_t image, void *context);
        /* CRIU is through, or failed (err->kind != ERROR_NONE). Last callback; may free the server. */
        void (*done)(const struct error *err, uint64_t pages, void *context);
};

/* Our end of a socketpair whose other end is criu_dump_options.page_server_fd; taken over (also on failure).
 * Non-blocking, in the loop. The caller closes its copy of the other end once criu_dump() has returned, or the death of
 * criu is not seen here. `sink` is copied.
 */
int page_server_new(struct loop *loop, int fd, const struct page_sink *sink, void *context, struct page_server **ret);

/* The sink has room again. Harmless when nothing waits. May call done(). */
void page_server_resume(struct page_server *server);

void page_server_free(struct page_server *server);
DEFINE_CLEANUP(struct page_server, page_server_free)
