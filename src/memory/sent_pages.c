/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memory/sent_pages.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "criu/page_server.h"

#define KEY_BYTES 16U
#define IV_BYTES 12U
#define NONE UINT32_MAX
#define MAX_PLACES ((size_t)1 << 24)

struct entry {
        uint8_t tag[PAGE_TAG_BYTES];
        struct page_place place;
        uint32_t next_tag; /* in its chain, or among those that are not in use */
        uint32_t next_place;
};

_Static_assert(sizeof(struct entry) + 2 * sizeof(uint32_t) <= SENT_PAGE_BYTES, "what is promised of memory");

struct sent_pages {
        EVP_CIPHER_CTX *mac;
        uint64_t salt;   /* of the chains of places: whoever chooses addresses does not choose chains */
        size_t max, n;   /* entries; that were ever in use */
        uint32_t unused; /* the first of those that are not any more */
        struct entry *entries;
        uint32_t *by_tag, *by_place; /* first of each chain */
};

/* The key stays in the context. */
static int make_key(struct sent_pages *s)
{
        uint8_t key[KEY_BYTES];
        int r = 0;

        if (getrandom(key, sizeof(key), 0) != sizeof(key) || getrandom(&s->salt, sizeof(s->salt), 0) != sizeof(s->salt))
                return -EIO;
        s->salt |= 1;
        s->mac = EVP_CIPHER_CTX_new();
        if (!s->mac || EVP_EncryptInit_ex(s->mac, EVP_aes_128_gcm(), NULL, key, NULL) != 1)
                r = -ENOMEM;
        explicit_bzero(key, sizeof(key));
        return r;
}

int sent_pages_new(size_t max, struct sent_pages **ret)
{
        CLEANUP(sent_pages_free_ptr) struct sent_pages *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        if (max == 0 || max > MAX_PLACES || max & (max - 1))
                return -EINVAL;
        s->max = max;
        s->unused = NONE;
        s->entries = calloc(max, sizeof(*s->entries));
        s->by_tag = malloc(max * sizeof(*s->by_tag));
        s->by_place = malloc(max * sizeof(*s->by_place));
        if (!s->entries || !s->by_tag || !s->by_place)
                return -ENOMEM;
        memset(s->by_tag, 0xff, max * sizeof(*s->by_tag)); /* NONE */
        memset(s->by_place, 0xff, max * sizeof(*s->by_place));
        int r = make_key(s);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

void sent_pages_free(struct sent_pages *sent)
{
        if (!sent)
                return;
        EVP_CIPHER_CTX_free(sent->mac);
        free(sent->entries);
        free(sent->by_tag);
        free(sent->by_place);
        free(sent);
}

/* The page is what is authenticated, and nothing is encrypted. One nonce for all: no tag is ever shown to anybody. */
int sent_pages_tag(struct sent_pages *sent, const uint8_t *page, uint8_t ret[static PAGE_TAG_BYTES])
{
        static const uint8_t iv[IV_BYTES];
        uint8_t tag[PAGE_TAG_BYTES];
        int n;

        if (EVP_EncryptInit_ex(sent->mac, NULL, NULL, NULL, iv) != 1 ||
            EVP_EncryptUpdate(sent->mac, NULL, &n, page, PAGE_BYTES) != 1 ||
            EVP_EncryptFinal_ex(sent->mac, tag, &n) != 1 ||
            EVP_CIPHER_CTX_ctrl(sent->mac, EVP_CTRL_AEAD_GET_TAG, sizeof(tag), tag) != 1)
                return -ENOMEM;
        memcpy(ret, tag, sizeof(tag));
        return 0;
}

/* -- chains ----------------------------------------------------------------------------------------------------------
 */

/* Tags are as good as random. */
static uint32_t *chain_of_tag(const struct sent_pages *s, const uint8_t *tag)
{
        uint32_t value;

        memcpy(&value, tag, sizeof(value));
        return &s->by_tag[value & (s->max - 1)];
}

static uint32_t *chain_of_place(const struct sent_pages *s, const struct page_place *place)
{
        const uint64_t mixed = (place->vaddr / PAGE_BYTES + place->image * UINT64_C(0x9e3779b97f4a7c15)) * s->salt;

        return &s->by_place[mixed >> 40 & (s->max - 1)];
}

static bool is_at(const struct entry *e, const struct page_place *place)
{
        return e->place.vaddr == place->vaddr && e->place.image == place->image;
}

static void leave_chains(struct sent_pages *s, uint32_t index)
{
        const struct entry *e = &s->entries[index];
        uint32_t *at;

        for (at = chain_of_tag(s, e->tag); *at != index;)
                at = &s->entries[*at].next_tag;
        *at = e->next_tag;
        for (at = chain_of_place(s, &e->place); *at != index;)
                at = &s->entries[*at].next_place;
        *at = e->next_place;
}

bool sent_pages_find(const struct sent_pages *sent, const uint8_t tag[static PAGE_TAG_BYTES], struct page_place *ret)
{
        for (uint32_t i = *chain_of_tag(sent, tag); i != NONE; i = sent->entries[i].next_tag) {
                if (memcmp(sent->entries[i].tag, tag, PAGE_TAG_BYTES) == 0) {
                        *ret = sent->entries[i].place;
                        return true;
                }
        }
        return false;
}

void sent_pages_forget(struct sent_pages *sent, const struct page_place *place)
{
        for (uint32_t i = *chain_of_place(sent, place); i != NONE; i = sent->entries[i].next_place) {
                if (is_at(&sent->entries[i], place)) {
                        leave_chains(sent, i);
                        sent->entries[i].next_tag = sent->unused;
                        sent->unused = i;
                        return;
                }
        }
}

/* When all are in use any goes: the oldest, and nothing would be left of memory that is a little too large. */
static uint32_t take_entry(struct sent_pages *s, const uint8_t *tag)
{
        uint32_t index = s->unused, value;

        if (index != NONE) {
                s->unused = s->entries[index].next_tag;
                return index;
        }
        if (s->n < s->max)
                return (uint32_t)s->n++;
        memcpy(&value, tag + PAGE_TAG_BYTES - sizeof(value), sizeof(value));
        index = value & (uint32_t)(s->max - 1);
        leave_chains(s, index);
        return index;
}

void sent_pages_note(struct sent_pages *sent, const uint8_t tag[static PAGE_TAG_BYTES], const struct page_place *place)
{
        const uint32_t index = take_entry(sent, tag);
        struct entry *e = &sent->entries[index];
        uint32_t *by_tag = chain_of_tag(sent, tag), *by_place = chain_of_place(sent, place);

        *e = (struct entry){.place = *place, .next_tag = *by_tag, .next_place = *by_place};
        memcpy(e->tag, tag, sizeof(e->tag));
        *by_tag = *by_place = index;
}
