/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/config.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* inih keeps a line in a buffer of 200 bytes and would go on with the rest as if it were another line. */
#define LINE_MAX_LENGTH 190

struct parser {
        struct config *config;
        const char *path;
        FILE *file;
        unsigned line;
        int failed;
        struct error *err;
};

static int number(const char *value, unsigned long min, unsigned long max, unsigned long *ret)
{
        char *end;

        if (*value < '0' || *value > '9')
                return -EINVAL;
        errno = 0;
        unsigned long n = strtoul(value, &end, 10);
        if (errno || *end || n < min || n > max)
                return -ERANGE;
        *ret = n;
        return 0;
}

int rate_parse(const char *text, uint64_t *ret)
{
        static const char units[] = "kMG";
        double factor = 1;
        char *end;

        if (*text < '0' || *text > '9')
                return -EINVAL;
        double n = strtod(text, &end);
        if (*end) {
                const char *unit = strchr(units, *end == 'K' ? 'k' : *end);
                if (!unit || end[1])
                        return -EINVAL;
                for (const char *u = units; u <= unit; u++)
                        factor *= 1000;
        }
        n *= factor;
        if (!(n >= 1000 && n <= 1e12))
                return -EINVAL;
        *ret = (uint64_t)n;
        return 0;
}

static int set_number(struct parser *p, const char *key, const char *value, unsigned long min, unsigned long max,
                      unsigned *ret)
{
        unsigned long n = 0;
        char quoted[96];

        if (number(value, min, max, &n) < 0)
                return error_set_kind(p->err, ERROR_USAGE, EINVAL, "%s:%u: %s = '%s' is not a number from %lu to %lu",
                                      p->path, p->line, key, name_quote(value, quoted, sizeof(quoted)), min, max);
        *ret = (unsigned)n;
        return 0;
}

static int bad_value(struct parser *p, const char *key, const char *value, const char *why)
{
        char quoted[96];

        return error_set_kind(p->err, ERROR_USAGE, EINVAL, "%s:%u: %s = '%s' %s", p->path, p->line, key,
                              name_quote(value, quoted, sizeof(quoted)), why);
}

static int append(struct parser *p, const char *key, const char *value, char **list, size_t *n, size_t max)
{
        if (*n == max)
                return bad_value(p, key, value, "is one too many");
        list[*n] = strdup(value);
        if (!list[*n])
                return error_set(p->err, ENOMEM, "out of memory");
        (*n)++;
        return 0;
}

static int set_host_name(struct parser *p, const char *value)
{
        if (!name_is_valid(value))
                return bad_value(p, "name", value, "is not a valid host name");
        (void)snprintf(p->config->host_name, sizeof(p->config->host_name), "%s", value);
        return 0;
}

static int set_port(struct parser *p, const char *value)
{
        unsigned port = 0;
        int r = set_number(p, "port", value, 1, 65535, &port);

        if (r == 0)
                p->config->port = (uint16_t)port;
        return r;
}

static int set_listen(struct parser *p, const char *value)
{
        unsigned char address[16];

        if (inet_pton(AF_INET, value, address) != 1 && inet_pton(AF_INET6, value, address) != 1)
                return bad_value(p, "listen", value, "is not a numeric IPv4 or IPv6 address");
        return append(p, "listen", value, p->config->listen, &p->config->n_listen, CONFIG_LISTEN_MAX);
}

static int set_bandwidth(struct parser *p, const char *value)
{
        if (rate_parse(value, &p->config->bandwidth) < 0)
                return bad_value(p, "bandwidth", value, "is not a rate such as 100M (bytes per second)");
        return 0;
}

static int set_migrations(struct parser *p, const char *value)
{
        return set_number(p, "migrations", value, 1, 64, &p->config->max_migrations);
}

static int set_connections(struct parser *p, const char *value)
{
        return set_number(p, "connections", value, 4, 1024, &p->config->max_connections);
}

static int set_keep_released(struct parser *p, const char *value)
{
        return set_number(p, "keep-released", value, 0, 8760, &p->config->keep_released_h);
}

static int set_action(struct parser *p, const char *value)
{
        return append(p, "action", value, p->config->actions, &p->config->n_actions, CONFIG_ACTIONS_MAX);
}

static int set_hooks(struct parser *p, const char *value)
{
        if (value[0] != '/')
                return bad_value(p, "hooks", value, "is not an absolute path");
        free(p->config->hook_directory);
        p->config->hook_directory = strdup(value);
        return p->config->hook_directory ? 0 : error_set(p->err, ENOMEM, "out of memory");
}

static const struct {
        const char *section, *key;
        int (*set)(struct parser *p, const char *value);
} keys[] = {
        {"host", "name", set_host_name},
        {"network", "port", set_port},
        {"network", "listen", set_listen},
        {"network", "bandwidth", set_bandwidth},
        {"limits", "migrations", set_migrations},
        {"limits", "connections", set_connections},
        {"limits", "keep-released", set_keep_released},
        {"switchover", "action", set_action},
        {"switchover", "hooks", set_hooks},
};

static int on_value(void *context, const char *section, const char *key, const char *value)
{
        struct parser *p = context;
        char quoted_section[80], quoted_key[80];
        bool section_known = false;

        if (p->failed)
                return 1;
        for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
                if (strcmp(keys[i].section, section) != 0)
                        continue;
                section_known = true;
                if (strcmp(keys[i].key, key) == 0) {
                        p->failed = keys[i].set(p, value);
                        return 1;
                }
        }
        (void)name_quote(section, quoted_section, sizeof(quoted_section));
        (void)name_quote(key, quoted_key, sizeof(quoted_key));
        p->failed = section_known
                            ? error_set_kind(p->err, ERROR_USAGE, EINVAL, "%s:%u: unknown key '%s' in section [%s]",
                                             p->path, p->line, quoted_key, quoted_section)
                            : error_set_kind(p->err, ERROR_USAGE, EINVAL, "%s:%u: unknown section '%s' (key '%s')",
                                             p->path, p->line, quoted_section, quoted_key);
        return 1;
}

/* One line at a time, counted: the library of Debian does not tell its handler where it is. */
static char *read_line(char *buffer, int size, void *context)
{
        struct parser *p = context;

        if (p->failed || !fgets(buffer, size, p->file))
                return NULL;
        p->line++;
        size_t n = strlen(buffer);
        if (n > LINE_MAX_LENGTH) {
                p->failed = error_set_kind(p->err, ERROR_USAGE, E2BIG, "%s:%u: line longer than %d bytes", p->path,
                                           p->line, LINE_MAX_LENGTH);
                return NULL;
        }
        /* An indented line would continue the value above it: nobody means that here. */
        if ((buffer[0] == ' ' || buffer[0] == '\t') && buffer[strspn(buffer, " \t\r\n")]) {
                p->failed = error_set_kind(p->err, ERROR_USAGE, EINVAL, "%s:%u: line begins with white space", p->path,
                                           p->line);
                return NULL;
        }
        return buffer;
}

static int parse_file(const char *path, bool optional, struct config *config, struct error *err)
{
        AUTO_FILE FILE *file = fopen(path, "re");
        struct parser p = {.config = config, .path = path, .file = file, .err = err};

        if (!file) {
                if (optional && errno == ENOENT)
                        return 0;
                return error_errno(err, errno, "cannot read %s", path);
        }
        int line = ini_parse_stream(read_line, &p, on_value, &p);
        if (p.failed)
                return p.failed;
        if (ferror(file))
                return error_set(err, EIO, "cannot read %s", path);
        if (line > 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "%s:%d: neither [section] nor key = value", path, line);
        return line < 0 ? error_set(err, ENOMEM, "cannot read %s", path) : 0;
}

static int is_conf(const struct dirent *entry)
{
        size_t n = strlen(entry->d_name);

        return entry->d_name[0] != '.' && n > 5 && strcmp(entry->d_name + n - 5, ".conf") == 0;
}

static int parse_directory(const char *main_path, struct config *config, struct error *err)
{
        char directory[PATH_MAX], path[PATH_MAX];
        const char *slash = strrchr(main_path, '/');
        struct dirent **entries;
        int r = 0;

        if (snprintf(directory, sizeof(directory), "%.*sconf.d", slash ? (int)(slash - main_path) + 1 : 0, main_path) >=
            (int)sizeof(directory))
                return error_set(err, ENAMETOOLONG, "path too long: %s", main_path);
        int n = scandir(directory, &entries, is_conf, alphasort);
        if (n < 0)
                return errno == ENOENT ? 0 : error_errno(err, errno, "cannot read %s", directory);
        for (int i = 0; i < n; i++) {
                if (r == 0 && snprintf(path, sizeof(path), "%s/%s", directory, entries[i]->d_name) >= (int)sizeof(path))
                        r = error_set(err, ENAMETOOLONG, "path too long in %s", directory);
                if (r == 0)
                        r = parse_file(path, false, config, err);
                free(entries[i]);
        }
        free(entries);
        return r;
}

static int default_name(struct config *config, struct error *err)
{
        char name[256] = "";
        char quoted[96];

        if (gethostname(name, sizeof(name) - 1) < 0)
                return error_errno(err, errno, "cannot read the host name");
        name[strcspn(name, ".")] = '\0';
        if (!name_is_valid(name))
                return error_set_kind(err, ERROR_USAGE, EINVAL,
                                      "the host name '%s' cannot be used: set name in section [host]",
                                      name_quote(name, quoted, sizeof(quoted)));
        (void)snprintf(config->host_name, sizeof(config->host_name), "%s", name);
        return 0;
}

int config_load(const char *path, struct config **ret, struct error *err)
{
        CLEANUP(config_free_ptr) struct config *config = calloc(1, sizeof(*config));

        if (!config)
                return error_set(err, ENOMEM, "out of memory");
        config->port = 12345;
        config->max_migrations = 4;
        config->max_connections = 64;
        config->keep_released_h = 24;

        int r = parse_file(path, true, config, err);
        if (r == 0)
                r = parse_directory(path, config, err);
        if (r == 0 && !config->host_name[0])
                r = default_name(config, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(config);
        return 0;
}

void config_free(struct config *config)
{
        if (!config)
                return;
        for (size_t i = 0; i < config->n_listen; i++)
                free(config->listen[i]);
        for (size_t i = 0; i < config->n_actions; i++)
                free(config->actions[i]);
        free(config->hook_directory);
        free(config);
}
