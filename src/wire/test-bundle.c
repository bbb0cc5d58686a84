/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Frames on links side by side, delivered in whatever order, come out in the one in which they went in. The links are
 * of our own making: the link_bulk_* functions below are them.
 */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/bundle.h"

#define LINKS 3U
#define FRAMES 1000U

/* What was committed and has not left, what is on its way, and slots that the receiver has not given back. */
struct link {
        uint8_t slots[BULK_SLOTS][16];
        struct bulk_frame sent[BULK_SLOTS];
        bool busy[BULK_SLOTS];
        unsigned order[BULK_SLOTS], n;
        int reserved;
        uint8_t received[BULK_SLOTS][16];
        bool kept[BULK_SLOTS];
};

int link_bulk_reserve(struct link *link, void **ret_data)
{
        for (int i = 0; i < (int)BULK_SLOTS && link->reserved < 0; i++)
                if (!link->busy[i])
                        link->reserved = i;
        if (link->reserved < 0)
                return -EAGAIN;
        *ret_data = link->slots[link->reserved];
        return 0;
}

int link_bulk_commit(struct link *link, const struct bulk_frame *frame)
{
        assert_true(link->reserved >= 0 && !link->busy[link->reserved]);
        link->sent[link->reserved] = *frame;
        link->busy[link->reserved] = true;
        link->order[link->n++] = (unsigned)link->reserved;
        link->reserved = -1;
        return 0;
}

unsigned link_bulk_in_flight(const struct link *link)
{
        return link->n;
}

void link_bulk_done(struct link *link, const void *data)
{
        const size_t slot = (size_t)((const uint8_t *)data - link->received[0]) / sizeof(link->received[0]);

        assert_true(slot < BULK_SLOTS && link->kept[slot]);
        link->kept[slot] = false;
}

struct story {
        struct link links[BUNDLE_LINKS_MAX];
        struct bundle *from, *to;
        uint64_t next; /* due at the receiver */
};

static void check(const struct bulk_frame *frame, const void *data, void *context)
{
        struct story *s = context;
        uint64_t value;

        memcpy(&value, data, sizeof(value));
        assert_int_equal(value, s->next);
        assert_int_equal(frame->object, s->next);
        s->next++;
}

static void begin(struct story *s, unsigned n)
{
        memset(s, 0, sizeof(*s));
        assert_int_equal(bundle_new(n, check, s, &s->from), 0);
        assert_int_equal(bundle_new(n, check, s, &s->to), 0);
        for (unsigned i = 0; i < n; i++) {
                s->links[i].reserved = -1;
                bundle_set_link(s->from, i, &s->links[i]);
                bundle_set_link(s->to, i, &s->links[i]);
        }
}

static void end(struct story *s)
{
        bundle_free(s->from);
        bundle_free(s->to);
}

static int put(struct story *s, uint64_t number)
{
        const struct bulk_frame frame = {.type = 1, .size = sizeof(number), .object = number};
        void *slot;

        int r = bundle_reserve(s->from, &slot);
        if (r < 0)
                return r;
        memcpy(slot, &number, sizeof(number));
        return bundle_commit(s->from, &frame);
}

/* The oldest frame of a link arrives, if there is a slot for it; the result of bundle_take(). */
static int deliver(struct story *s, unsigned place)
{
        struct link *link = &s->links[place];
        unsigned free_slot = 0;

        while (free_slot < BULK_SLOTS && link->kept[free_slot])
                free_slot++;
        if (!link->n || free_slot == BULK_SLOTS)
                return -EAGAIN;
        const unsigned slot = link->order[0];
        memcpy(link->received[free_slot], link->slots[slot], sizeof(link->slots[slot]));
        link->kept[free_slot] = true;
        link->busy[slot] = false;
        link->n--;
        memmove(link->order, link->order + 1, link->n * sizeof(link->order[0]));
        int r = bundle_take(s->to, place, &link->sent[slot], link->received[free_slot]);
        if (r == 0)
                link->kept[free_slot] = false;
        return r;
}

static void one_order_whatever_the_links_do(void **state)
{
        struct story s;
        uint64_t number = 0;

        (void)state;
        srandom(7);
        begin(&s, LINKS);
        while (s.next < FRAMES) {
                if (number < FRAMES && random() % 2)
                        number += put(&s, number) == 0;
                else
                        assert_true(deliver(&s, (unsigned)random() % LINKS) != -EPROTO);
        }
        assert_true(bundle_idle(s.from));
        for (unsigned i = 0; i < LINKS; i++)
                for (unsigned k = 0; k < BULK_SLOTS; k++)
                        assert_false(s.links[i].kept[k]);
        end(&s);
}

/* One link that stands still holds up what comes after its frame, and not what can be sent meanwhile. */
static void one_that_stands_still(void **state)
{
        struct story s;
        uint64_t number = 0;

        (void)state;
        begin(&s, 2);
        for (unsigned i = 0; i < 12; i++) {
                assert_int_equal(put(&s, number++), 0);
                if (i > 1)
                        (void)deliver(&s, 1);
        }
        assert_true(s.next <= 1);
        while (deliver(&s, 0) != -EAGAIN || deliver(&s, 1) != -EAGAIN)
                ;
        assert_int_equal(s.next, number);
        end(&s);
}

static void all_full(void **state)
{
        struct story s;
        uint64_t number = 0;
        void *slot;

        (void)state;
        begin(&s, BUNDLE_LINKS_MAX);
        while (put(&s, number) == 0)
                number++;
        assert_int_equal(number, 16);
        assert_int_equal(bundle_reserve(s.from, &slot), -EAGAIN);
        assert_int_equal(bundle_commit(s.from, &(struct bulk_frame){.type = 1}), -EINVAL);
        assert_false(bundle_idle(s.from));
        for (unsigned i = BUNDLE_LINKS_MAX; i-- > 0;)
                while (deliver(&s, i) >= 0)
                        ;
        assert_int_equal(s.next, number);
        assert_true(bundle_idle(s.from));
        assert_int_equal(bundle_reserve(s.from, &slot), 0);
        end(&s);
}

/* A peer that leaves one out would make the receiver wait for ever. */
static void a_gap_is_noticed(void **state)
{
        struct story s;
        int r = 0;

        (void)state;
        begin(&s, 2);
        for (uint64_t number = 0; number < 8; number++)
                assert_int_equal(put(&s, number), 0);
        for (unsigned i = 0; i < 2; i++)
                for (unsigned k = 0; k < BULK_SLOTS; k++)
                        s.links[i].sent[k].sequence += s.links[i].sent[k].sequence >= 3;
        for (unsigned i = 0; i < 8 && r != -EPROTO; i++)
                r = deliver(&s, i % 2);
        assert_int_equal(r, -EPROTO);
        assert_int_equal(s.next, 3);
        end(&s);
}

static void a_number_of_links_that_cannot_be(void **state)
{
        struct bundle *bundle = NULL;

        (void)state;
        assert_int_equal(bundle_new(0, check, NULL, &bundle), -EINVAL);
        assert_int_equal(bundle_new(BUNDLE_LINKS_MAX + 1, check, NULL, &bundle), -EINVAL);
        assert_null(bundle);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(one_order_whatever_the_links_do),
                cmocka_unit_test(one_that_stands_still),
                cmocka_unit_test(all_full),
                cmocka_unit_test(a_gap_is_noticed),
                cmocka_unit_test(a_number_of_links_that_cannot_be),
        };

        return cmocka_run_group_tests_name("bundle", tests, NULL, NULL);
}
