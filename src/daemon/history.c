/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/history.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

struct history {
        sqlite3 *db;
};

static void finalize(sqlite3_stmt **s)
{
        (void)sqlite3_finalize(*s);
}
#define AUTO_STATEMENT CLEANUP(finalize)

static int sql_error(const struct history *h, struct error *err, const char *what)
{
        return error_set(err, EIO, "history: cannot %s: %s", what, sqlite3_errmsg(h->db));
}

int history_open(const char *path, struct history **ret, struct error *err)
{
        static const char schema[] =
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                "CREATE TABLE IF NOT EXISTS migrations ("
                " id TEXT PRIMARY KEY, side TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,"
                " source TEXT NOT NULL, target TEXT NOT NULL, result TEXT NOT NULL,"
                " created_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, downtime_ms REAL, bytes INTEGER NOT NULL,"
                " document TEXT NOT NULL, log TEXT NOT NULL, key TEXT, hash TEXT) STRICT;"
                "CREATE INDEX IF NOT EXISTS migrations_by_key ON migrations (key);"
                "CREATE INDEX IF NOT EXISTS migrations_by_time ON migrations (created_ms);"
                "PRAGMA user_version = 1;";
        CLEANUP(history_free_ptr) struct history *h = calloc(1, sizeof(*h));

        if (!h)
                return error_set(err, ENOMEM, "out of memory");
        if (sqlite3_open_v2(path, &h->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) !=
            SQLITE_OK)
                return error_set(err, EIO, "history: cannot open %s: %s", path,
                                 h->db ? sqlite3_errmsg(h->db) : "out of memory");
        (void)sqlite3_busy_timeout(h->db, 1000);
        if (sqlite3_exec(h->db, schema, NULL, NULL, NULL) != SQLITE_OK)
                return sql_error(h, err, "prepare its tables");
        *ret = TAKE_PTR(h);
        return 0;
}

void history_free(struct history *h)
{
        if (!h)
                return;
        (void)sqlite3_close(h->db);
        free(h);
}

static void bind_text(sqlite3_stmt *s, int at, const json_t *object, const char *key)
{
        const char *text = json_string_value(json_object_get(object, key));

        (void)sqlite3_bind_text(s, at, text ? text : "", -1, SQLITE_TRANSIENT);
}

static void bind_integer(sqlite3_stmt *s, int at, const json_t *object, const char *key)
{
        (void)sqlite3_bind_int64(s, at, json_integer_value(json_object_get(object, key)));
}

int history_put(struct history *h, const json_t *migration, const char *log, const char *key, const char *hash,
                struct error *err)
{
        static const char *const texts[] = {"id", "side", "kind", "name", "source", "target", "result"};
        AUTO_STATEMENT sqlite3_stmt *s = NULL;
        AUTO_FREE char *document = json_dumps(migration, JSON_COMPACT | JSON_PRESERVE_ORDER);
        const json_t *report = json_object_get(migration, "report");
        const json_t *downtime = json_object_get(report, "downtime_ms");

        if (!document)
                return error_set(err, ENOMEM, "out of memory");
        if (sqlite3_prepare_v2(h->db, "INSERT OR REPLACE INTO migrations VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", -1,
                               &s, NULL) != SQLITE_OK)
                return sql_error(h, err, "store");
        for (int i = 0; i < 7; i++)
                bind_text(s, i + 1, migration, texts[i]);
        bind_integer(s, 8, migration, "created_ms");
        bind_integer(s, 9, migration, "ended_ms");
        if (json_is_number(downtime))
                (void)sqlite3_bind_double(s, 10, json_number_value(downtime));
        bind_integer(s, 11, report, "bytes_sent");
        (void)sqlite3_bind_text(s, 12, document, -1, SQLITE_TRANSIENT);
        (void)sqlite3_bind_text(s, 13, log ? log : "", -1, SQLITE_TRANSIENT);
        (void)sqlite3_bind_text(s, 14, key, -1, SQLITE_TRANSIENT);
        (void)sqlite3_bind_text(s, 15, hash, -1, SQLITE_TRANSIENT);
        return sqlite3_step(s) == SQLITE_DONE ? 0 : sql_error(h, err, "store");
}

int history_find_key(struct history *h, const char *key, char ret_id[static ID_LENGTH + 1], char ret_hash[static 65])
{
        AUTO_STATEMENT sqlite3_stmt *s = NULL;

        if (sqlite3_prepare_v2(h->db, "SELECT id, hash FROM migrations WHERE key = ?", -1, &s, NULL) != SQLITE_OK)
                return -EIO;
        (void)sqlite3_bind_text(s, 1, key, -1, SQLITE_TRANSIENT);
        if (sqlite3_step(s) != SQLITE_ROW)
                return -ENOENT;
        const char *id = (const char *)sqlite3_column_text(s, 0), *hash = (const char *)sqlite3_column_text(s, 1);
        if (!id_is_valid(id) || !hash || strlen(hash) != 64)
                return -ENOENT;
        (void)strcpy(ret_id, id);
        (void)strcpy(ret_hash, hash);
        return 0;
}

static json_t *column_json(sqlite3_stmt *s, int column)
{
        const char *text = (const char *)sqlite3_column_text(s, column);

        return text ? json_loads(text, 0, NULL) : NULL;
}

static json_t *split_lines(const char *text)
{
        json_t *lines = json_array();

        while (lines && text && *text) {
                size_t n = strcspn(text, "\n");
                json_t *line = json_stringn(text, n);
                if (line)
                        (void)json_array_append_new(lines, line);
                text += n + (text[n] == '\n');
        }
        return lines;
}

int history_get(struct history *h, const char *id, bool with_log, json_t **ret, struct error *err)
{
        AUTO_STATEMENT sqlite3_stmt *s = NULL;

        if (sqlite3_prepare_v2(h->db, "SELECT document, log FROM migrations WHERE id = ?", -1, &s, NULL) != SQLITE_OK)
                return sql_error(h, err, "read");
        (void)sqlite3_bind_text(s, 1, id, -1, SQLITE_TRANSIENT);
        int step = sqlite3_step(s);
        if (step == SQLITE_DONE)
                return error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "there is no migration %s", id);
        if (step != SQLITE_ROW)
                return sql_error(h, err, "read");
        json_t *document = column_json(s, 0);
        if (!document)
                return error_set(err, ENOMEM, "history: cannot read migration %s", id);
        if (with_log)
                (void)json_object_set_new(document, "log", split_lines((const char *)sqlite3_column_text(s, 1)));
        *ret = document;
        return 0;
}

int history_list(struct history *h, unsigned limit, json_t *array, struct error *err)
{
        AUTO_STATEMENT sqlite3_stmt *s = NULL;

        if (sqlite3_prepare_v2(h->db, "SELECT document FROM migrations ORDER BY created_ms DESC LIMIT ?", -1, &s,
                               NULL) != SQLITE_OK)
                return sql_error(h, err, "read");
        (void)sqlite3_bind_int64(s, 1, limit);
        while (sqlite3_step(s) == SQLITE_ROW) {
                json_t *document = column_json(s, 0);
                if (document)
                        (void)json_array_append_new(array, document);
        }
        return 0;
}

int history_counts(struct history *h, history_count_fn fn, void *context, struct history_totals *ret)
{
        AUTO_STATEMENT sqlite3_stmt *s = NULL;
        AUTO_STATEMENT sqlite3_stmt *bytes = NULL;

        *ret = (struct history_totals){0};
        if (sqlite3_prepare_v2(h->db, "SELECT kind, result, count(*) FROM migrations GROUP BY kind, result", -1, &s,
                               NULL) != SQLITE_OK ||
            sqlite3_prepare_v2(h->db, "SELECT side, sum(bytes) FROM migrations GROUP BY side", -1, &bytes, NULL) !=
                    SQLITE_OK)
                return -EIO;
        while (sqlite3_step(s) == SQLITE_ROW)
                fn((const char *)sqlite3_column_text(s, 0), (const char *)sqlite3_column_text(s, 1),
                   (uint64_t)sqlite3_column_int64(s, 2), context);
        while (sqlite3_step(bytes) == SQLITE_ROW) {
                const char *side = (const char *)sqlite3_column_text(bytes, 0);
                uint64_t n = (uint64_t)sqlite3_column_int64(bytes, 1);
                if (side && strcmp(side, "source") == 0)
                        ret->bytes_sent = n;
                else
                        ret->bytes_received = n;
        }
        return 0;
}

int history_downtimes(struct history *h, int64_t limit_ms, uint64_t *ret_count, double *ret_sum_ms)
{
        AUTO_STATEMENT sqlite3_stmt *s = NULL;

        if (sqlite3_prepare_v2(h->db,
                               "SELECT count(*), coalesce(sum(downtime_ms), 0.0) FROM migrations WHERE side = 'source'"
                               " AND result = 'done' AND downtime_ms IS NOT NULL AND (?1 < 0 OR downtime_ms <= ?1)",
                               -1, &s, NULL) != SQLITE_OK)
                return -EIO;
        (void)sqlite3_bind_int64(s, 1, limit_ms);
        if (sqlite3_step(s) != SQLITE_ROW)
                return -EIO;
        *ret_count = (uint64_t)sqlite3_column_int64(s, 0);
        *ret_sum_ms = sqlite3_column_double(s, 1);
        return 0;
}

#define FLOOR_SAMPLES 5

int64_t history_floor(struct history *h, const char *kind, const char *name, const char *target)
{
        AUTO_STATEMENT sqlite3_stmt *s = NULL;

        if (sqlite3_prepare_v2(h->db,
                               "WITH floors AS (SELECT max(1, downtime_ms - copy) AS ms FROM (SELECT downtime_ms,"
                               " json_extract(document, '$.report.predicted_copy_ms') AS copy FROM migrations"
                               " WHERE side = 'source' AND result = 'done' AND kind = ?1 AND target = ?3"
                               " AND downtime_ms IS NOT NULL AND copy IS NOT NULL"
                               " ORDER BY name = ?2 DESC, created_ms DESC LIMIT ?4))"
                               " SELECT ms FROM floors ORDER BY ms LIMIT 1 OFFSET (SELECT count(*) / 2 FROM floors)",
                               -1, &s, NULL) != SQLITE_OK)
                return 0;
        (void)sqlite3_bind_text(s, 1, kind, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(s, 2, name, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(s, 3, target, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int(s, 4, FLOOR_SAMPLES);
        return sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
}
