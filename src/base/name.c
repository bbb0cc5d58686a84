/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/name.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static bool is_alnum(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool name_is_valid(const char *name)
{
        size_t n = name ? strnlen(name, NAME_MAX_LENGTH + 1) : 0;

        if (n == 0 || n > NAME_MAX_LENGTH || !is_alnum(name[0]))
                return false;
        for (size_t i = 0; i < n; i++)
                if (!is_alnum(name[i]) && name[i] != '_' && name[i] != '.' && name[i] != '-')
                        return false;
        return true;
}

bool id_is_valid(const char *id)
{
        return id && strlen(id) == ID_LENGTH && strspn(id, "0123456789abcdef") == ID_LENGTH;
}

int id_new(char ret[static ID_LENGTH + 1])
{
        uint8_t bytes[ID_LENGTH / 2];
        ssize_t n = getrandom(bytes, sizeof(bytes), 0);

        if (n != (ssize_t)sizeof(bytes))
                return n < 0 ? -errno : -EIO;
        for (size_t i = 0; i < sizeof(bytes); i++)
                (void)snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
        return 0;
}

bool kind_is_valid(const char *kind)
{
        size_t n = kind ? strnlen(kind, 17) : 0;

        return n > 0 && n <= 16 && strspn(kind, "abcdefghijklmnopqrstuvwxyz0123456789") == n;
}

int workload_parse(const char *text, char *ret_kind, char *ret_id, struct error *err)
{
        char quoted[160], kind[17];
        const char *slash = strchr(text, '/');

        if (!slash || slash == text || (size_t)(slash - text) >= sizeof(kind))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not KIND/ID, such as lxc/web",
                                      name_quote(text, quoted, sizeof(quoted)));
        (void)snprintf(kind, sizeof(kind), "%.*s", (int)(slash - text), text);
        if (!kind_is_valid(kind))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a kind of workload",
                                      name_quote(kind, quoted, sizeof(quoted)));
        if (!name_is_valid(slash + 1))
                return error_set_kind(
                        err, ERROR_USAGE, EINVAL,
                        "'%s' is not a valid name: 1 to %d of letters, digits, '_', '.', '-', starting with "
                        "a letter or digit",
                        name_quote(slash + 1, quoted, sizeof(quoted)), NAME_MAX_LENGTH);
        (void)strcpy(ret_kind, kind);
        (void)strcpy(ret_id, slash + 1);
        return 0;
}

/* Length of the UTF-8 sequence at `p` (1 to 4), 0 if it is none. */
static size_t utf8_sequence(const unsigned char *p, size_t left)
{
        static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        size_t n = p[0] < 0x80             ? 1
                   : (p[0] & 0xe0) == 0xc0 ? 2
                   : (p[0] & 0xf0) == 0xe0 ? 3
                   : (p[0] & 0xf8) == 0xf0 ? 4
                                           : 0;

        if (n == 0 || n > left)
                return 0;
        if (n == 1)
                return 1;
        uint32_t value = p[0] & (0x7fU >> n);
        for (size_t i = 1; i < n; i++) {
                if ((p[i] & 0xc0) != 0x80)
                        return 0;
                value = value << 6 | (p[i] & 0x3fU);
        }
        if (value < least[n] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
                return 0;
        return n;
}

bool utf8_is_valid(const char *text, size_t size)
{
        for (size_t i = 0; i < size;) {
                size_t n = utf8_sequence((const unsigned char *)text + i, size - i);
                if (n == 0 || text[i] == '\0')
                        return false;
                i += n;
        }
        return true;
}

const char *name_quote(const char *text, char *buffer, size_t size)
{
        const size_t ellipsis = sizeof("…");
        size_t used = 0, left = strlen(text);

        while (left > 0) {
                size_t n = utf8_sequence((const unsigned char *)text, left);
                bool plain = n > 1 || (n == 1 && *text >= ' ' && *text != '\'' && *text != '\\' && *text != 0x7f);
                size_t need = plain ? n : 4;

                if (used + need + ellipsis > size) {
                        (void)strcpy(buffer + used, "…");
                        return buffer;
                }
                if (plain)
                        memcpy(buffer + used, text, n);
                else
                        (void)snprintf(buffer + used, 5, "\\x%02x", (unsigned char)*text);
                used += need;
                text += plain ? n : 1;
                left -= plain ? n : 1;
        }
        buffer[used] = '\0';
        return buffer;
}
