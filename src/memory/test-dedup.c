/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Pages that the target has already are not sent: what it then has is what was sent all the same, whatever is written
 * in whatever order; and a peer that lies about what is where is refused. The link is one of our own making, as in
 * test-image-stream.c: each frame is delivered at once, or kept to be falsified.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "memory/dedup.h"
#include "memory/sent_pages.h"

#define A PAGE_IMAGE(PAGE_IMAGE_TASK, 42)
#define B PAGE_IMAGE(PAGE_IMAGE_TASK, 43)
#define BASE 0x10000000U
#define PAGES 600U
#define PLACES 256U

struct bundle {
        struct bulk_frame latest;
        uint8_t *slot;
        uint64_t bytes; /* that crossed it */
        struct image_receiver *receiver;
        int result; /* of the latest delivery */
        bool hold;  /* the next frame is not delivered */
        struct error err;
};

int bundle_reserve(struct bundle *bundle, void **ret_data)
{
        *ret_data = bundle->slot;
        return 0;
}

int bundle_commit(struct bundle *bundle, const struct bulk_frame *frame)
{
        bundle->latest = *frame;
        bundle->bytes += frame->size;
        error_clear(&bundle->err);
        if (!bundle->hold)
                bundle->result = image_receiver_frame(bundle->receiver, frame, bundle->slot, &bundle->err);
        return 0;
}

bool bundle_idle(const struct bundle *bundle)
{
        (void)bundle;
        return true;
}

struct story {
        struct bundle bundle;
        struct image_sender *sender;
        char directory[32];
        int fd;
        uint8_t *memory[2]; /* what was sent, of A and B */
        bool present[2][PAGES];
        unsigned seed;
};

static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));

        if (!s)
                return -1;
        s->seed = 1;
        s->bundle.slot = malloc(BULK_MAX);
        s->memory[0] = calloc(PAGES, PAGE_BYTES);
        s->memory[1] = calloc(PAGES, PAGE_BYTES);
        (void)snprintf(s->directory, sizeof(s->directory), "/tmp/dedup-XXXXXX");
        if (!s->bundle.slot || !s->memory[0] || !s->memory[1] || !mkdtemp(s->directory))
                return -1;
        s->fd = open(s->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = s;
        if (image_sender_new(&s->bundle, true, &s->sender) < 0 || image_sender_dedup(s->sender, PLACES) < 0)
                return -1;
        return image_receiver_new(s->fd, 64U << 20, &s->bundle.receiver);
}

static int teardown(void **state)
{
        struct story *s = *state;

        image_sender_free(s->sender);
        image_receiver_free(s->bundle.receiver);
        free(s->bundle.slot);
        free(s->memory[0]);
        free(s->memory[1]);
        (void)close(s->fd);
        (void)fd_remove_tree(AT_FDCWD, s->directory, NULL);
        free(s);
        return 0;
}

static uint8_t *page_of(struct story *s, uint64_t image, uint32_t page)
{
        return s->memory[image == B] + (size_t)page * PAGE_BYTES;
}

/* For tests that need many. */
static struct story *new_story(void)
{
        void *state = NULL;

        if (setup(&state) < 0 || !state)
                abort();
        return state;
}

static void end_story(struct story *s)
{
        void *state = s;

        (void)teardown(&state);
}

static uint64_t address(uint32_t page)
{
        return BASE + (uint64_t)page * PAGE_BYTES;
}

/* 0: zeros. */
static void write_page(struct story *s, uint64_t image, uint32_t page, unsigned contents)
{
        uint8_t *p = page_of(s, image, page);

        memset(p, 0, PAGE_BYTES);
        memcpy(p + (size_t)(contents % 1000) * 4, &contents, sizeof(contents));
}

/* Pages from `first` on, as one frame. */
static void send_pages(struct story *s, uint64_t image, uint32_t first, uint32_t n)
{
        uint8_t *slot;

        assert_int_equal(image_sender_reserve(s->sender, &slot), 0);
        page_span_put(slot, &(struct page_span){address(first), n});
        memcpy(slot + RUN_TABLE_BYTES, page_of(s, image, first), (size_t)n * PAGE_BYTES);
        memset(&s->present[image == B][first], 1, n);
        assert_int_equal(image_sender_pages(s->sender, image, 1, n), 0);
        if (s->bundle.result < 0)
                fail_msg("%s", s->bundle.err.text);
}

static void begin_round(struct story *s)
{
        assert_int_equal(image_sender_round(s->sender, image_sender_rounds(s->sender) + 1), 0);
        assert_int_equal(s->bundle.result, 0);
}

/* Nobody else uses it at the time. */
static struct pagemap_writer *writer_of(const struct story *s)
{
        return (struct pagemap_writer *)image_receiver_writer(s->bundle.receiver);
}

static void expect_all(struct story *s)
{
        uint8_t there[PAGE_BYTES];
        struct error err = {0};

        for (uint32_t i = 0; i < 2 * PAGES; i++) {
                const uint64_t image = i < PAGES ? A : B;
                if (!s->present[i / PAGES][i % PAGES])
                        continue;
                const int r = pagemap_writer_read(writer_of(s), image, address(i % PAGES), 1, there, &err);
                if (r < 0 || memcmp(there, page_of(s, image, i % PAGES), PAGE_BYTES) != 0)
                        fail_msg("page %u of image 0x%llx: %s", i % PAGES, (unsigned long long)image,
                                 r < 0 ? err.text : "another one");
        }
}

/* ---- the table ---- */

static void test_equal_pages_have_equal_tags_and_no_others(void **state)
{
        CLEANUP(sent_pages_free_ptr) struct sent_pages *sent = NULL;
        CLEANUP(sent_pages_free_ptr) struct sent_pages *other = NULL;
        uint8_t page[PAGE_BYTES] = {0}, a[PAGE_TAG_BYTES], b[PAGE_TAG_BYTES];

        (void)state;
        assert_int_equal(sent_pages_new(3, &sent), -EINVAL);
        assert_int_equal(sent_pages_new(0, &sent), -EINVAL);
        assert_int_equal(sent_pages_new(4, &sent), 0);
        assert_int_equal(sent_pages_new(4, &other), 0);
        assert_int_equal(sent_pages_tag(sent, page, a), 0);
        assert_int_equal(sent_pages_tag(sent, page, b), 0);
        assert_memory_equal(a, b, sizeof(a));
        assert_int_equal(sent_pages_tag(other, page, b), 0); /* nobody can tell what tag a page will have */
        assert_memory_not_equal(a, b, sizeof(a));
        for (size_t i = 0; i < PAGE_BYTES; i += 511) {
                page[i] ^= 1;
                assert_int_equal(sent_pages_tag(sent, page, b), 0);
                assert_memory_not_equal(a, b, sizeof(a));
                page[i] ^= 1;
        }
}

/* Whatever is forgotten for want of room: what is found is there. */
static void test_what_is_found_is_there(void **state)
{
        enum { WHERE = 300, WHAT = 40, TURNS = 20000, ROOM = 64 };
        CLEANUP(sent_pages_free_ptr) struct sent_pages *sent = NULL;
        unsigned what[WHERE] = {0}, seed = 1, found = 0;
        uint8_t tags[WHAT + 1][PAGE_TAG_BYTES];

        (void)state;
        assert_int_equal(sent_pages_new(ROOM, &sent), 0);
        for (unsigned i = 0; i <= WHAT; i++) {
                uint8_t page[PAGE_BYTES] = {(uint8_t)i, 1};
                assert_int_equal(sent_pages_tag(sent, page, tags[i]), 0);
        }
        for (unsigned turn = 0; turn < TURNS; turn++) {
                const unsigned at = (unsigned)rand_r(&seed) % WHERE, now = 1 + (unsigned)rand_r(&seed) % WHAT;
                const struct page_place place = {at % 2 ? A : B, address(at / 2)};
                struct page_place there;
                sent_pages_forget(sent, &place);
                what[at] = 0;
                if (turn % 5) {
                        sent_pages_note(sent, tags[now], &place);
                        what[at] = now;
                }
                if (sent_pages_find(sent, tags[now], &there)) {
                        const unsigned index = (unsigned)((there.vaddr - BASE) / PAGE_BYTES) * 2 + (there.image == A);
                        assert_int_equal(what[index], now);
                        found++;
                }
        }
        assert_true(found > TURNS / 2);
}

static void test_half_of_what_is_twice_too_large_is_found(void **state)
{
        enum { ROOM = 1024 };
        CLEANUP(sent_pages_free_ptr) struct sent_pages *sent = NULL;
        struct page_place there;
        unsigned found = 0;
        uint8_t tag[PAGE_TAG_BYTES];

        (void)state;
        assert_int_equal(sent_pages_new(ROOM, &sent), 0);
        for (unsigned pass = 0; pass < 2; pass++) {
                for (uint32_t i = 0; i < 2 * ROOM; i++) {
                        uint8_t page[PAGE_BYTES] = {1};
                        memcpy(page + 8, &i, sizeof(i));
                        assert_int_equal(sent_pages_tag(sent, page, tag), 0);
                        if (sent_pages_find(sent, tag, &there))
                                found++;
                        else if (pass == 0)
                                sent_pages_note(sent, tag, &(struct page_place){A, address(i)});
                }
        }
        assert_int_equal(found, ROOM);
}

/* ---- the whole way ---- */

static void test_zeros_take_no_bytes(void **state)
{
        struct story *s = *state;
        uint64_t zero, same;

        begin_round(s);
        for (uint32_t i = 0; i < 500; i += 250)
                send_pages(s, A, i, 250);
        assert_int_equal(s->bundle.bytes, 2 * PIECE_TABLE_BYTES(1));
        image_sender_saved(s->sender, &zero, &same);
        assert_int_equal(zero, 500 * PAGE_BYTES);
        assert_int_equal(same, 0);
        /* Written, and made zeros again: what was there must not be there any more. */
        begin_round(s);
        write_page(s, A, 7, 5);
        send_pages(s, A, 7, 1);
        expect_all(s);
        begin_round(s);
        write_page(s, A, 7, 0);
        send_pages(s, A, 7, 1);
        expect_all(s);
        assert_int_equal(image_receiver_pages(s->bundle.receiver), 502);
}

static void test_equal_pages_are_sent_once(void **state)
{
        struct story *s = *state;
        uint64_t zero, same;

        for (uint32_t i = 0; i < 200; i++) {
                write_page(s, A, i, i + 1);
                write_page(s, B, i, i + 1); /* as a child has it */
        }
        begin_round(s);
        send_pages(s, A, 0, 200);
        assert_int_equal(s->bundle.latest.type, BULK_PAGES);
        const uint64_t before = s->bundle.bytes;
        send_pages(s, B, 0, 200);
        assert_int_equal(s->bundle.latest.type, BULK_PIECES);
        assert_int_equal(s->bundle.bytes - before, PIECE_TABLE_BYTES(1));
        expect_all(s);
        /* Written with what is there already. */
        begin_round(s);
        send_pages(s, A, 10, 20);
        assert_int_equal(s->bundle.latest.size, PIECE_TABLE_BYTES(1));
        /* What was equal is not any more; that is known in the next frame. */
        write_page(s, A, 50, 1000);
        send_pages(s, A, 50, 1);
        send_pages(s, B, 50, 1);
        assert_int_equal(s->bundle.latest.type, BULK_PAGES);
        expect_all(s);
        image_sender_saved(s->sender, &zero, &same);
        assert_int_equal(zero, 0);
        assert_int_equal(same, 220 * PAGE_BYTES);
}

/* Every second page is saved: as many pieces as there can be, whose table takes the room of a page. */
static void test_pieces_as_small_as_they_get(void **state)
{
        struct story *s = *state;

        for (unsigned offset = 0; offset < 2; offset++) {
                for (uint32_t i = 0; i < PAGE_BATCH_MAX; i++)
                        write_page(s, A, i, (i + offset) % 2 ? 7000 * (offset + 1) + i : 0);
                begin_round(s);
                send_pages(s, A, 0, PAGE_BATCH_MAX);
                assert_int_equal(s->bundle.latest.offset, PAGE_BATCH_MAX);
                expect_all(s);
        }
}

/* The saved page is the last one of many runs: all before it have to make room for a larger table. */
static void test_a_large_table_in_front_of_all_contents(void **state)
{
        struct story *s = *state;
        uint8_t *slot;

        begin_round(s);
        assert_int_equal(image_sender_reserve(s->sender, &slot), 0);
        for (uint32_t i = 0; i < PAGE_BATCH_MAX; i++) {
                write_page(s, A, 2 * i, i + 1 < PAGE_BATCH_MAX ? i + 1 : 0);
                s->present[0][2 * i] = true;
                page_span_put(slot + (size_t)i * RUN_BYTES, &(struct page_span){address(2 * i), 1});
                memcpy(slot + RUN_TABLE_BYTES + (size_t)i * PAGE_BYTES, page_of(s, A, 2 * i), PAGE_BYTES);
        }
        assert_int_equal(image_sender_pages(s->sender, A, PAGE_BATCH_MAX, PAGE_BATCH_MAX), 0);
        assert_int_equal(s->bundle.result, 0);
        assert_int_equal(s->bundle.latest.size, BULK_MAX);
        expect_all(s);
}

static void send_at_random(struct story *s, uint64_t image)
{
        for (uint32_t at = 0, n; at < PAGES; at += n) {
                n = 1 + (unsigned)rand_r(&s->seed) % PAGE_BATCH_MAX;
                n = n < PAGES - at ? n : PAGES - at;
                if (rand_r(&s->seed) % 3 == 0)
                        continue;
                for (uint32_t i = at; i < at + n; i++)
                        if (rand_r(&s->seed) % 2)
                                write_page(s, image, i,
                                           rand_r(&s->seed) % 3 ? (unsigned)rand_r(&s->seed) % 300
                                                                : (unsigned)rand_r(&s->seed));
                send_pages(s, image, at, n);
        }
}

/* Rounds, and what is dumped after them, with more pages than are kept in mind. */
static void test_whatever_is_written(void **state)
{
        struct story *s = *state;
        uint64_t zero, same;

        for (unsigned round = 0; round < 12; round++) {
                begin_round(s);
                send_at_random(s, A);
                send_at_random(s, B);
                expect_all(s);
        }
        assert_int_equal(image_sender_last(s->sender), 0);
        assert_int_equal(image_sender_open(A, s->sender), 0);
        send_at_random(s, A);
        assert_int_equal(image_sender_open(B, s->sender), 0);
        send_at_random(s, B);
        expect_all(s);
        image_sender_saved(s->sender, &zero, &same);
        assert_true(zero > 0 && same > 100 * PAGE_BYTES);
}

/* Without rounds, as when no tracker is possible. */
static void test_a_dump_alone(void **state)
{
        struct story *s = *state;

        assert_int_equal(image_sender_open(A, s->sender), 0);
        send_at_random(s, A);
        assert_int_equal(image_sender_open(B, s->sender), 0);
        send_at_random(s, B);
        expect_all(s);
}

static void test_it_is_for_checked_frames_from_the_beginning(void **state)
{
        struct story *s = *state;
        CLEANUP(image_sender_free_ptr) struct image_sender *unchecked = NULL;

        assert_int_equal(image_sender_new(&s->bundle, false, &unchecked), 0);
        assert_int_equal(image_sender_dedup(unchecked, PLACES), -EINVAL);
        assert_int_equal(image_sender_dedup(s->sender, PLACES), -EINVAL); /* it does so already */
}

/* phaul-net may write to the table while it is read. */
static void test_a_table_that_was_changed_under_us(void **state)
{
        struct story *s = *state;
        uint8_t *slot;

        begin_round(s);
        assert_int_equal(image_sender_reserve(s->sender, &slot), 0);
        page_span_put(slot, &(struct page_span){address(0), 3});
        assert_int_equal(image_sender_pages(s->sender, A, 1, 2), -EBADMSG);
        /* Nothing more is sent of what may be half done. */
        page_span_put(slot, &(struct page_span){address(0), 2});
        assert_int_equal(image_sender_pages(s->sender, A, 1, 2), -EBADMSG);
}

/* ---- lies ---- */

struct lie {
        const char *what;
        struct page_piece pieces[3]; /* until one without pages */
        uint64_t count;
        uint32_t contents; /* pages */
        uint32_t flags;    /* 0: those that are right */
};

/* Made as the sender makes them, digest and all, whatever it is. */
static int deliver(struct story *s, const struct lie *lie)
{
        CLEANUP(page_hash_free_ptr) struct page_hash *hash = NULL;
        struct bulk_frame frame = {.type = BULK_PIECES,
                                   .flags = (uint16_t)(lie->flags ?: PE_PRESENT | BULK_CHECKED),
                                   .object = A,
                                   .count = lie->count};

        while (frame.offset < 3 && lie->pieces[frame.offset].vaddr) {
                page_piece_put(s->bundle.slot + frame.offset * PIECE_BYTES, &lie->pieces[frame.offset]);
                frame.offset++;
        }
        const size_t table = PIECE_TABLE_BYTES(frame.offset), room = PIECE_TABLE_ROOM(frame.offset);
        frame.size = (uint32_t)(lie->contents ? room + (size_t)lie->contents * PAGE_BYTES : table);
        memset(s->bundle.slot + room, 0x77, (size_t)lie->contents * PAGE_BYTES);
        assert_int_equal(page_hash_new(&hash), 0);
        page_hash_begin(hash);
        page_hash_add(hash, s->bundle.slot + room, lie->contents);
        page_hash_end(hash, s->bundle.slot, table - DIGEST_BYTES, s->bundle.slot + table - DIGEST_BYTES);
        error_clear(&s->bundle.err);
        return image_receiver_frame(s->bundle.receiver, &frame, s->bundle.slot, &s->bundle.err);
}

#define CONTENTS(page, n)                                                                                              \
        {                                                                                                              \
                .vaddr = BASE + (page)*PAGE_BYTES, .n_pages = (n), .kind = PIECE_CONTENTS                              \
        }
#define ZEROS(page, n)                                                                                                 \
        {                                                                                                              \
                .vaddr = BASE + (page)*PAGE_BYTES, .n_pages = (n), .kind = PIECE_ZEROS                                 \
        }
#define SAME(page, n, image, at)                                                                                       \
        {                                                                                                              \
                .vaddr = BASE + (page)*PAGE_BYTES, .n_pages = (n), .kind = PIECE_SAME, .from_image = (image),          \
                .from_vaddr = (at)                                                                                     \
        }

/* When A has pages 0 to 9, in a round before and in this one, and B none. */
static const struct lie lies[] = {
        {"of an image that there is not", {SAME(20, 1, B, BASE)}, 1, 0, 0},
        {"of an image of no type", {SAME(20, 1, 0xffffff, BASE)}, 1, 0, 0},
        {"of a page that never came", {SAME(20, 1, A, BASE + 10 * PAGE_BYTES)}, 1, 0, 0},
        {"of pages of which the last never came", {SAME(20, 10, A, BASE + PAGE_BYTES)}, 10, 0, 0},
        {"of the page itself, which never came", {SAME(20, 1, A, BASE + 20 * PAGE_BYTES)}, 1, 0, 0},
        {"of half a page", {SAME(20, 1, A, BASE + 512)}, 1, 0, 0},
        {"of pages around the end of addresses", {SAME(20, 2, A, UINT64_MAX - PAGE_BYTES + 1)}, 2, 0, 0},
        {"of pages that are not what they are said to be", {SAME(20, 1, A, BASE)}, 1, 0, 0},
        {"to an impossible address", {{UINT64_MAX - PAGE_BYTES + 1, 1, PIECE_ZEROS, 0, 0}}, 1, 0, 0},
        {"backwards", {ZEROS(30, 1), ZEROS(29, 1)}, 2, 0, 0},
        {"over each other", {ZEROS(30, 2), CONTENTS(31, 1)}, 3, 1, 0},
        {"fewer pages than told", {ZEROS(20, 1)}, 2, 0, 0},
        {"more pages than told", {ZEROS(20, 2)}, 1, 0, 0},
        {"no pages", {ZEROS(20, 0)}, 1, 0, 0},
        {"so many pages that they overflow", {ZEROS(20, UINT32_MAX), ZEROS(40, 2)}, 1, 0, 0},
        {"more pieces than pages", {ZEROS(20, 1), ZEROS(30, 1)}, 1, 0, 0},
        {"more pages than fit", {ZEROS(20, PAGE_BATCH_MAX + 1)}, PAGE_BATCH_MAX + 1, 0, 0},
        {"contents that did not come", {CONTENTS(20, 2), ZEROS(30, 1)}, 3, 1, 0},
        {"no contents at all", {CONTENTS(20, 1), ZEROS(30, 1)}, 2, 0, 0},
        {"contents of nothing", {CONTENTS(20, 1), ZEROS(30, 1)}, 2, 2, 0},
        {"a kind that there is not", {{BASE + 20 * PAGE_BYTES, 1, (enum piece_kind)3, 0, 0}}, 1, 0, 0},
        {"no digest", {ZEROS(20, 1)}, 1, 0, PE_PRESENT},
        {"not present", {ZEROS(20, 1)}, 1, 0, BULK_CHECKED},
        {"of a parent", {ZEROS(20, 1)}, 1, 0, BULK_CHECKED | PE_PRESENT | PE_PARENT},
        {"with a flag that there is not", {ZEROS(20, 1)}, 1, 0, BULK_CHECKED | PE_PRESENT | 64},
};

static void begin_lies(struct story *s)
{
        for (uint32_t i = 0; i < 10; i++)
                write_page(s, A, i, i + 1);
        begin_round(s);
        send_pages(s, A, 0, 5);
        begin_round(s);
        send_pages(s, A, 5, 5);
}

static void test_lies_are_refused(void **state)
{
        (void)state;
        for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
                struct story *s = new_story();
                begin_lies(s);
                const int r = deliver(s, &lies[i]);
                if (r != -EBADMSG || s->bundle.err.text[0] == '\0')
                        fail_msg("%s: %d, %s", lies[i].what, r, s->bundle.err.text);
                end_story(s);
        }
}

/* The same frames without the lie, so that it is that which is refused. */
static void test_what_is_true_is_taken(void **state)
{
        struct story *s = *state;
        static const struct lie truths[] = {
                {"zeros", {ZEROS(20, 2)}, 2, 0, 0},
                {"contents and zeros", {CONTENTS(30, 2), ZEROS(33, 1)}, 3, 2, 0},
                {"contents alone", {CONTENTS(40, 2), CONTENTS(44, 1)}, 3, 3, 0},
        };

        begin_lies(s);
        for (size_t i = 0; i < sizeof(truths) / sizeof(truths[0]); i++) {
                const int r = deliver(s, &truths[i]);
                if (r != 0)
                        fail_msg("%s: %d, %s", truths[i].what, r, s->bundle.err.text);
        }
        assert_int_equal(image_receiver_pages(s->bundle.receiver), 18);
}

static void test_frames_of_other_sizes(void **state)
{
        static const int changes[] = {-(int)PIECE_TABLE_BYTES(1), -1, 1, (int)PAGE_BYTES,
                                      (int)(PAGE_BYTES - PIECE_TABLE_BYTES(1))};

        (void)state;
        for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
                struct story *s = new_story();
                begin_round(s);
                s->bundle.hold = true;
                send_pages(s, A, 0, 4);
                struct bulk_frame frame = s->bundle.latest;
                frame.size = (uint32_t)((int)frame.size + changes[i]);
                assert_int_equal(image_receiver_frame(s->bundle.receiver, &frame, s->bundle.slot, &s->bundle.err),
                                 -EBADMSG);
                end_story(s);
        }
}

/* Also those of what is not sent. */
static void test_every_changed_byte_of_the_table_is_noticed(void **state)
{
        (void)state;
        for (size_t i = 0; i < PIECE_TABLE_BYTES(2); i++) {
                struct story *s = new_story();
                begin_lies(s);
                begin_round(s);
                memcpy(page_of(s, A, 20), page_of(s, A, 3), PAGE_BYTES);
                s->bundle.hold = true;
                send_pages(s, A, 20, 2); /* one as another, one of zeros */
                assert_int_equal(s->bundle.latest.size, PIECE_TABLE_BYTES(2));
                s->bundle.slot[i] ^= 1;
                assert_int_equal(
                        image_receiver_frame(s->bundle.receiver, &s->bundle.latest, s->bundle.slot, &s->bundle.err),
                        -EBADMSG);
                end_story(s);
        }
}

/* Whatever is in a table and says of itself that it was not changed: taken or refused, and nothing else happens. */
static void test_tables_of_noise(void **state)
{
        enum { TURNS = 3000 };
        unsigned seed = 3, taken = 0, refused = 0;

        (void)state;
        for (unsigned turn = 0; turn < TURNS; turn += 100) {
                struct story *s = new_story();
                begin_lies(s);
                for (unsigned i = 0; i < 100; i++) {
                        struct lie lie = {.contents = (unsigned)rand_r(&seed) % 3};
                        for (unsigned k = 0; k < 1 + i % 3; k++) {
                                lie.pieces[k] = (struct page_piece){
                                        .vaddr = address(20 + (unsigned)rand_r(&seed) % 500),
                                        .n_pages = (unsigned)rand_r(&seed) % 4,
                                        .kind = (enum piece_kind)(rand_r(&seed) % 3),
                                };
                                if (lie.pieces[k].kind == PIECE_SAME) {
                                        lie.pieces[k].from_image = rand_r(&seed) % 4 ? A : B;
                                        lie.pieces[k].from_vaddr = address((unsigned)rand_r(&seed) % 14);
                                }
                                lie.count += lie.pieces[k].n_pages;
                        }
                        const int r = deliver(s, &lie);
                        if (r == 0)
                                taken++;
                        else if (r == -EBADMSG)
                                refused++;
                        else
                                fail_msg("%d: %s", r, s->bundle.err.text);
                        if (r < 0)
                                break; /* from then on all is refused */
                }
                end_story(s);
        }
        assert_true(refused > 0 && taken > 0);
}

static void test_digests_that_are_due(void **state)
{
        struct story *s = *state;
        CLEANUP(image_sender_free_ptr) struct image_sender *unchecked = NULL;
        uint8_t *slot;

        image_receiver_expect_checked(s->bundle.receiver);
        begin_round(s);
        write_page(s, A, 0, 1);
        send_pages(s, A, 0, 1);
        assert_int_equal(image_sender_new(&s->bundle, false, &unchecked), 0);
        assert_int_equal(image_sender_reserve(unchecked, &slot), 0);
        page_span_put(slot, &(struct page_span){address(1), 1});
        assert_int_equal(image_sender_pages(unchecked, A, 1, 1), 0);
        assert_int_equal(s->bundle.result, -EBADMSG);
        assert_string_equal(s->bundle.err.text, "pages without a digest");
}

/* Zeros and copies cost no bytes, but room. */
static void test_no_more_is_stored_than_was_told(void **state)
{
        struct story *s = *state;
        CLEANUP(image_receiver_free_ptr) struct image_receiver *small = NULL;
        struct image_receiver *large = s->bundle.receiver;

        assert_int_equal(image_receiver_new(s->fd, 300U * PAGE_BYTES, &small), 0);
        s->bundle.receiver = small;
        begin_round(s);
        send_pages(s, A, 0, PAGE_BATCH_MAX);
        const struct lie too_much = {"", {ZEROS(1000, PAGE_BATCH_MAX)}, PAGE_BATCH_MAX, 0, 0};
        assert_int_equal(deliver(s, &too_much), -EFBIG);
        s->bundle.receiver = large;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_equal_pages_have_equal_tags_and_no_others),
                cmocka_unit_test(test_what_is_found_is_there),
                cmocka_unit_test(test_half_of_what_is_twice_too_large_is_found),
                cmocka_unit_test_setup_teardown(test_zeros_take_no_bytes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_equal_pages_are_sent_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pieces_as_small_as_they_get, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_large_table_in_front_of_all_contents, setup, teardown),
                cmocka_unit_test_setup_teardown(test_whatever_is_written, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_dump_alone, setup, teardown),
                cmocka_unit_test_setup_teardown(test_it_is_for_checked_frames_from_the_beginning, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_table_that_was_changed_under_us, setup, teardown),
                cmocka_unit_test(test_lies_are_refused),
                cmocka_unit_test_setup_teardown(test_what_is_true_is_taken, setup, teardown),
                cmocka_unit_test(test_frames_of_other_sizes),
                cmocka_unit_test(test_every_changed_byte_of_the_table_is_noticed),
                cmocka_unit_test(test_tables_of_noise),
                cmocka_unit_test_setup_teardown(test_digests_that_are_due, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_more_is_stored_than_was_told, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
