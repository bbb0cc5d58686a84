/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migration/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const phase_names[REPORT_PHASES_MAX] = {"examine", "files",   "memory",  "freeze",
                                                           "stop",    "state",   "restore", "commit",
                                                           "resume",  "release", "fill",    "rollback"};
static const char *const owner_names[] = {"source", "target", "unknown"};
static const char *const result_names[] = {
        [REPORT_DONE] = "done",
        [REPORT_FAILED] = "failed",
        [REPORT_CANCELLED] = "cancelled",
        [REPORT_UNKNOWN] = "unknown",
};

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

const char *report_result_name(enum report_result result)
{
        return (unsigned)result < N_OF(result_names) ? result_names[result] : NULL;
}

/* The static copy of a word, NULL when it is none of them. */
static const char *one_of(const char *const *words, size_t n, const char *word)
{
        for (size_t i = 0; word && i < n; i++)
                if (strcmp(words[i], word) == 0)
                        return words[i];
        return NULL;
}

static void copy_text(char *ret, size_t size, const char *text)
{
        (void)snprintf(ret, size, "%s", text);
}

/* Texts of errors come from anywhere and may be cut in the middle of a character; JSON takes UTF-8 only. */
static void copy_utf8(char *ret, size_t size, const char *text)
{
        copy_text(ret, size, text);
        for (size_t length = strlen(ret), cut = 0; cut < 4 && cut <= length; cut++)
                if (utf8_is_valid(ret, length - cut)) {
                        ret[length - cut] = '\0';
                        return;
                }
        for (char *c = ret; *c; c++)
                if ((unsigned char)*c >= 0x80)
                        *c = '?';
}

static bool word_is_valid(const char *word)
{
        size_t length = strnlen(word, REPORT_WORD_MAX + 1);

        return length <= REPORT_WORD_MAX && strspn(word, "abcdefghijklmnopqrstuvwxyz-") == length;
}

/* -- building ---------------------------------------------------------------------------------------------------- */

static int set_subject(struct migration_report *report, const struct report_subject *s)
{
        if (!s->id || !s->kind || !s->name || !s->target_name || !s->source || !s->target || !id_is_valid(s->id) ||
            !kind_is_valid(s->kind) || !name_is_valid(s->name) || !name_is_valid(s->target_name) ||
            !name_is_valid(s->source) || !name_is_valid(s->target))
                return -EINVAL;
        copy_text(report->id, sizeof(report->id), s->id);
        copy_text(report->kind, sizeof(report->kind), s->kind);
        copy_text(report->name, sizeof(report->name), s->name);
        copy_text(report->target_name, sizeof(report->target_name), s->target_name);
        copy_text(report->source, sizeof(report->source), s->source);
        copy_text(report->target, sizeof(report->target), s->target);
        return 0;
}

static int allocate(const struct report_subject *subject, struct migration_report **ret)
{
        CLEANUP(migration_report_free_ptr) struct migration_report *report = calloc(1, sizeof(*report));

        if (!report)
                return -ENOMEM;
        int r = set_subject(report, subject);
        if (r < 0)
                return r;
        report->owner = owner_names[0];
        report->downtime_ms = report->predicted_ms = report->predicted_copy_ms = -1;
        report->postcopy.source_needed_ms = -1;
        report->zero_bytes = report->same_bytes = -1;
        report->phase = -1;
        *ret = TAKE_PTR(report);
        return 0;
}

int migration_report_new(const struct report_subject *subject, int64_t wall_ms, uint64_t now_ms,
                         struct migration_report **ret)
{
        struct migration_report *report;

        int r = allocate(subject, &report);
        if (r < 0)
                return r;
        copy_text(report->mode, sizeof(report->mode), "pre-copy");
        report->started_ms = wall_ms;
        report->begun_ms = now_ms;
        *ret = report;
        return 0;
}

void migration_report_free(struct migration_report *report)
{
        free(report);
}

static int64_t elapsed(uint64_t from, uint64_t to)
{
        return to > from ? (int64_t)(to - from) : 0;
}

static void phase_end(struct migration_report *report, uint64_t now_ms, uint64_t bytes_sent)
{
        if (report->phase < 0)
                return;
        struct report_phase *phase = &report->phases[report->phase];
        phase->ms += elapsed(report->phase_ms, now_ms);
        phase->bytes += bytes_sent > report->phase_bytes ? bytes_sent - report->phase_bytes : 0;
        report->phase = -1;
}

void migration_report_bytes(struct migration_report *report, uint64_t bytes)
{
        if (report->phase >= 0)
                report->phases[report->phase].bytes += bytes;
}

int migration_report_phase(struct migration_report *report, const char *name, uint64_t now_ms, uint64_t bytes_sent)
{
        const char *known = one_of(phase_names, N_OF(phase_names), name);
        size_t i = 0;

        if (name && !known)
                return -EINVAL;
        phase_end(report, now_ms, bytes_sent);
        report->bytes_sent = bytes_sent;
        if (!known)
                return 0;
        while (i < report->n_phases && report->phases[i].name != known)
                i++;
        if (i == report->n_phases)
                report->phases[report->n_phases++] = (struct report_phase){.name = known};
        report->phase = (int)i;
        report->phase_ms = now_ms;
        report->phase_bytes = bytes_sent;
        return 0;
}

void migration_report_frozen(struct migration_report *report, uint64_t now_ms)
{
        if (report->is_frozen)
                return;
        report->is_frozen = true;
        report->freeze_ms = now_ms;
}

void migration_report_unfrozen(struct migration_report *report, uint64_t now_ms)
{
        if (!report->is_frozen)
                return;
        report->is_frozen = false;
        report->frozen_ms += elapsed(report->freeze_ms, now_ms);
}

void migration_report_handed_over(struct migration_report *report, uint64_t now_ms)
{
        if (report->is_frozen && report->downtime_ms < 0)
                report->downtime_ms = report->frozen_ms + elapsed(report->freeze_ms, now_ms);
}

void migration_report_source_free(struct migration_report *report, uint64_t now_ms)
{
        if (report->postcopy.used && report->postcopy.source_needed_ms < 0)
                report->postcopy.source_needed_ms = elapsed(report->begun_ms, now_ms);
}

static enum report_result result_of(const char *owner, const struct error *failure)
{
        if (strcmp(owner, "unknown") == 0 || (failure && failure->kind == ERROR_UNKNOWN))
                return REPORT_UNKNOWN;
        if (failure && failure->kind == ERROR_CANCELLED)
                return REPORT_CANCELLED;
        if (failure && failure->kind != ERROR_NONE)
                return REPORT_FAILED;
        return strcmp(owner, "target") == 0 ? REPORT_DONE : REPORT_FAILED;
}

void migration_report_end(struct migration_report *report, enum handover_state state, const struct error *failure,
                          const char *failed_host, int64_t wall_ms, uint64_t now_ms, uint64_t bytes_sent)
{
        const char *during = report->phase >= 0 ? report->phases[report->phase].name : "";

        report->owner = handover_owner(state);
        report->result = result_of(report->owner, failure);
        if (failure && failure->kind != ERROR_NONE) {
                report->failure.kind = failure->kind;
                copy_text(report->failure.phase, sizeof(report->failure.phase), during);
                if (failed_host && name_is_valid(failed_host))
                        copy_text(report->failure.host, sizeof(report->failure.host), failed_host);
                copy_utf8(report->failure.text, sizeof(report->failure.text), failure->text);
                copy_text(report->reason, sizeof(report->reason), report->failure.text);
        }
        phase_end(report, now_ms, bytes_sent);
        migration_report_unfrozen(report, now_ms);
        report->bytes_sent = bytes_sent;
        report->ended_ms = wall_ms;
        report->total_ms = elapsed(report->begun_ms, now_ms);
}

/* -- JSON -------------------------------------------------------------------------------------------------------- */

/* NULL and "" become null. */
static json_t *text_json(const char *text)
{
        return text && *text ? json_string(text) : json_null();
}

static json_t *number_json(uint64_t number)
{
        return json_integer(number > INT64_MAX ? INT64_MAX : (json_int_t)number);
}

static json_t *phases_json(const struct migration_report *report)
{
        json_t *phases = json_array();

        for (size_t i = 0; phases && i < report->n_phases; i++) {
                const struct report_phase *p = &report->phases[i];
                json_t *phase = json_pack("{s:s, s:I, s:o}", "name", p->name, "ms", (json_int_t)p->ms, "bytes",
                                          number_json(p->bytes));
                if (json_array_append_new(phases, phase) < 0) {
                        json_decref(phases);
                        return NULL;
                }
        }
        return phases;
}

static json_t *known_json(int64_t number)
{
        return number < 0 ? json_null() : json_integer(number);
}

static json_t *postcopy_json(const struct migration_report *report)
{
        if (!report->postcopy.used)
                return json_null();
        return json_pack("{s:o, s:o, s:o, s:o}", "left_bytes", number_json(report->postcopy.left_bytes),
                         "faulted_bytes", number_json(report->postcopy.faulted_bytes), "background_bytes",
                         number_json(report->postcopy.background_bytes), "source_needed_ms",
                         known_json(report->postcopy.source_needed_ms));
}

static json_t *failure_json(const struct migration_report *report)
{
        if (report->failure.kind == ERROR_NONE)
                return json_null();
        return json_pack("{s:o, s:o, s:s, s:s}", "phase", text_json(report->failure.phase), "host",
                         text_json(report->failure.host), "kind", error_kind_name(report->failure.kind), "text",
                         report->failure.text);
}

json_t *migration_report_to_json(const struct migration_report *r)
{
        json_t *json =
                json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "id", r->id, "kind", r->kind, "name", r->name,
                          "target_name", r->target_name, "source", r->source, "target", r->target, "mode", r->mode);
        int failed = !json;

        failed |= json_object_set_new(json, "result", text_json(report_result_name(r->result)));
        failed |= json_object_set_new(json, "owner", json_string(r->owner));
        failed |= json_object_set_new(json, "reason", text_json(r->reason));
        failed |= json_object_set_new(json, "started_ms", json_integer(r->started_ms));
        failed |= json_object_set_new(json, "ended_ms",
                                      r->result == REPORT_OPEN ? json_null() : json_integer(r->ended_ms));
        failed |= json_object_set_new(json, "total_ms", json_integer(r->total_ms));
        failed |= json_object_set_new(json, "downtime_ms", known_json(r->downtime_ms));
        failed |= json_object_set_new(json, "predicted_downtime_ms", known_json(r->predicted_ms));
        failed |= json_object_set_new(json, "predicted_copy_ms", known_json(r->predicted_copy_ms));
        failed |= json_object_set_new(json, "frozen_ms", json_integer(r->frozen_ms));
        failed |= json_object_set_new(json, "bytes_sent", number_json(r->bytes_sent));
        failed |= json_object_set_new(json, "zero_bytes", known_json(r->zero_bytes));
        failed |= json_object_set_new(json, "same_bytes", known_json(r->same_bytes));
        failed |= json_object_set_new(json, "rounds", json_integer(r->rounds));
        failed |= json_object_set_new(json, "tracker", text_json(r->tracker));
        failed |= json_object_set_new(json, "postcopy", postcopy_json(r));
        failed |= json_object_set_new(json, "phases", phases_json(r));
        failed |= json_object_set_new(json, "failure", failure_json(r));
        if (failed) {
                json_decref(json);
                return NULL;
        }
        return json;
}

/* Reading: the first thing that is wrong is kept, so that the story below has no branches. */
struct reader {
        const json_t *json;
        const char *bad; /* key, NULL while all is well */
};

static void fault(struct reader *in, const char *key)
{
        if (!in->bad)
                in->bad = key;
}

static const char *get_text(struct reader *in, const char *key, size_t size, bool may_be_null)
{
        const json_t *value = json_object_get(in->json, key);
        const char *text = json_string_value(value);

        if (may_be_null && (!value || json_is_null(value)))
                return "";
        if (!text || json_string_length(value) >= size) {
                fault(in, key);
                return "";
        }
        return text;
}

static int64_t get_number(struct reader *in, const char *key, int64_t max, bool may_be_null)
{
        const json_t *value = json_object_get(in->json, key);
        json_int_t number = json_integer_value(value);

        if (may_be_null && (!value || json_is_null(value)))
                return -1;
        if (!json_is_integer(value) || number < 0 || number > max) {
                fault(in, key);
                return 0;
        }
        return number;
}

static void get_word(struct reader *in, const char *key, bool may_be_null, char *ret, size_t size)
{
        const char *word = get_text(in, key, size, may_be_null);

        if (!word_is_valid(word) || (!*word && !may_be_null))
                fault(in, key);
        else
                copy_text(ret, size, word);
}

static void get_result(struct reader *in, struct migration_report *report)
{
        const char *word = get_text(in, "result", REPORT_WORD_MAX, true);
        const char *owner = get_text(in, "owner", REPORT_WORD_MAX, false);

        for (unsigned i = REPORT_DONE; *word && i < N_OF(result_names); i++)
                if (strcmp(word, result_names[i]) == 0)
                        report->result = (enum report_result)i;
        if (*word && report->result == REPORT_OPEN)
                fault(in, "result");
        report->owner = one_of(owner_names, N_OF(owner_names), owner);
        if (!report->owner)
                fault(in, "owner");
}

static void get_phases(struct reader *in, struct migration_report *report)
{
        const json_t *phases = json_object_get(in->json, "phases");

        if (!json_is_array(phases) || json_array_size(phases) > REPORT_PHASES_MAX) {
                fault(in, "phases");
                return;
        }
        for (size_t i = 0; i < json_array_size(phases); i++) {
                struct reader phase = {.json = json_array_get(phases, i)};
                const char *name = one_of(phase_names, N_OF(phase_names), get_text(&phase, "name", 32, false));
                for (size_t j = 0; j < i; j++)
                        if (report->phases[j].name == name)
                                fault(in, "phases");
                report->phases[i] = (struct report_phase){name, get_number(&phase, "ms", INT64_MAX, false),
                                                          (uint64_t)get_number(&phase, "bytes", INT64_MAX, false)};
                report->n_phases = i + 1;
                if (!name || phase.bad) {
                        fault(in, "phases");
                        return;
                }
        }
}

static void get_failure(struct reader *in, struct migration_report *report)
{
        struct reader failure = {.json = json_object_get(in->json, "failure")};

        if (!failure.json || json_is_null(failure.json))
                return;
        const char *kind = get_text(&failure, "kind", REPORT_WORD_MAX, false);
        const char *host = get_text(&failure, "host", NAME_MAX_LENGTH + 1, true);
        get_word(&failure, "phase", true, report->failure.phase, sizeof(report->failure.phase));
        copy_text(report->failure.text, sizeof(report->failure.text),
                  get_text(&failure, "text", sizeof(report->failure.text), false));
        copy_text(report->failure.host, sizeof(report->failure.host), host);
        report->failure.kind = error_kind_from_name(kind);
        if (failure.bad || report->failure.kind == ERROR_NONE || (*host && !name_is_valid(host)) ||
            strcmp(error_kind_name(report->failure.kind), kind) != 0)
                fault(in, "failure");
}

static void get_postcopy(struct reader *in, struct migration_report *report)
{
        struct reader postcopy = {.json = json_object_get(in->json, "postcopy")};

        if (!postcopy.json || json_is_null(postcopy.json))
                return;
        report->postcopy.used = true;
        report->postcopy.left_bytes = (uint64_t)get_number(&postcopy, "left_bytes", INT64_MAX, false);
        report->postcopy.faulted_bytes = (uint64_t)get_number(&postcopy, "faulted_bytes", INT64_MAX, false);
        report->postcopy.background_bytes = (uint64_t)get_number(&postcopy, "background_bytes", INT64_MAX, false);
        report->postcopy.source_needed_ms = get_number(&postcopy, "source_needed_ms", INT64_MAX, true);
        if (postcopy.bad)
                fault(in, "postcopy");
}

int migration_report_from_json(const json_t *json, struct migration_report **ret, struct error *err)
{
        CLEANUP(migration_report_free_ptr) struct migration_report *report = NULL;
        struct reader in = {.json = json};
        const struct report_subject subject = {
                .id = get_text(&in, "id", sizeof(report->id), false),
                .kind = get_text(&in, "kind", sizeof(report->kind), false),
                .name = get_text(&in, "name", sizeof(report->name), false),
                .target_name = get_text(&in, "target_name", sizeof(report->target_name), false),
                .source = get_text(&in, "source", sizeof(report->source), false),
                .target = get_text(&in, "target", sizeof(report->target), false),
        };

        if (in.bad)
                return error_set(err, EBADMSG, "the report has no valid \"%s\"", in.bad);
        int r = allocate(&subject, &report);
        if (r == -EINVAL)
                return error_set(err, EBADMSG, "the report names something that cannot exist");
        if (r < 0)
                return error_errno(err, -r, "cannot read the report");

        get_result(&in, report);
        get_word(&in, "mode", false, report->mode, sizeof(report->mode));
        get_word(&in, "tracker", true, report->tracker, sizeof(report->tracker));
        copy_text(report->reason, sizeof(report->reason), get_text(&in, "reason", sizeof(report->reason), true));
        report->started_ms = get_number(&in, "started_ms", INT64_MAX, false);
        report->ended_ms = get_number(&in, "ended_ms", INT64_MAX, report->result == REPORT_OPEN);
        report->total_ms = get_number(&in, "total_ms", INT64_MAX, false);
        report->downtime_ms = get_number(&in, "downtime_ms", INT64_MAX, true);
        report->predicted_ms = get_number(&in, "predicted_downtime_ms", INT64_MAX, true);
        report->predicted_copy_ms = get_number(&in, "predicted_copy_ms", INT64_MAX, true);
        report->frozen_ms = get_number(&in, "frozen_ms", INT64_MAX, false);
        report->bytes_sent = (uint64_t)get_number(&in, "bytes_sent", INT64_MAX, false);
        report->zero_bytes = get_number(&in, "zero_bytes", INT64_MAX, true);
        report->same_bytes = get_number(&in, "same_bytes", INT64_MAX, true);
        report->rounds = (unsigned)get_number(&in, "rounds", UINT32_MAX, false);
        if (report->ended_ms < 0)
                report->ended_ms = 0;
        get_postcopy(&in, report);
        get_phases(&in, report);
        get_failure(&in, report);
        if (in.bad)
                return error_set(err, EBADMSG, "the report has no valid \"%s\"", in.bad);
        *ret = TAKE_PTR(report);
        return 0;
}

/* -- text -------------------------------------------------------------------------------------------------------- */

/* Decimal units, two digits where they fit: "512 B", "1.2 GB", "268 MB". */
static const char *bytes_text(uint64_t bytes, char *buffer, size_t size)
{
        static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
        double value = (double)bytes;
        size_t unit = 0;

        for (; value >= 999.5 && unit + 1 < N_OF(units); unit++)
                value /= 1000;
        (void)snprintf(buffer, size, unit > 0 && value < 9.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
        return buffer;
}

const char *migration_report_text(const struct migration_report *r, char *buffer, size_t size)
{
        const bool done = r->result == REPORT_DONE;
        char downtime[48] = "", sent[32], total[32];

        (void)snprintf(total, sizeof(total), "%" PRId64 ".%02" PRId64 " s", r->total_ms / 1000,
                       r->total_ms % 1000 / 10);
        if (!done) {
                const char *word = report_result_name(r->result);
                (void)snprintf(buffer, size, "%s %s/%s %s -> %s after %s%s%s", word ? word : "going on:", r->kind,
                               r->name, r->source, r->target, total, r->reason[0] ? ": " : "", r->reason);
                return buffer;
        }
        if (r->downtime_ms >= 0)
                (void)snprintf(downtime, sizeof(downtime), ", downtime %" PRId64 " ms", r->downtime_ms);
        (void)snprintf(buffer, size, "migrated %s/%s %s -> %s in %s%s, %s sent, %u round%s", r->kind, r->name,
                       r->source, r->target, total, downtime, bytes_text(r->bytes_sent, sent, sizeof(sent)), r->rounds,
                       r->rounds == 1 ? "" : "s");
        return buffer;
}
