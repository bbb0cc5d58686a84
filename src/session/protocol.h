/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What stands in columns stays there. */
/* clang-format off */
/*
 * The contract between phauld and phaul-session: one session per migration and side, in a process of its own that
 * outlives phauld.
 *
 * Directory STATE/migrations/ID (0700), made by phauld:
 *   request.json  what to do, never changed afterwards (below)
 *   record        the journal of the handover; the session's (migration/journal.h)
 *   report.json   the final report, written by the session in one step when nothing is left to be done
 *   images        link to images that were kept (--keep-images); phauld's `forget` follows it
 *   *.log         of CRIU (--verbose)
 *   log           text; it is the session's standard output and error (opened by phauld, append only), and what the
 *                 session reports as "log" events is also written there, so that nothing is lost while phauld is away
 *
 * request.json:
 *   {"id": ID, "side": "source" | "target", "mode": MODE | "check", "created_ms": N, "self": OWN NAME,
 *    "peer": HOST NAME, "peer_fingerprint": HEX, "peer_address": TEXT, "peer_port": N,
 *    "kind": KIND, "name": NAME, "target_name": NAME,
 *    "options": {…},                      as in migration/options.h
 *    "actions": [TEXT...], "hook_directory": PATH (optional),
 *    "state_dir": DIR, "runtime_dir": DIR, "config_dir": DIR, "libexec_dir": DIR,
 *    "idempotency_key": TEXT, "idempotency_hash": TEXT,                  phauld's own; optional
 *    "way": "ssh", "ssh": {"host": TEXT, "user": TEXT, "port": N, "agent": PATH, "uid": N}    source (user to agent optional)
 *    "way": "descriptors"                                                                 source
 *    "way": "tunnel"}                                                                     target
 * With a way on the source, peer_fingerprint and peer_address are "": who answers is known when the tunnel is up, and
 * is in the record from then on.
 * On the target kind, name, target_name and options are absent and mode is "live": what is to come, and whether it is
 * only a check, is said by the offer that follows on the control connection.
 *
 * Program: `phaul-session DIR`, started in a session (setsid) of its own. First it takes flock(LOCK_EX | LOCK_NB) on
 * DIR; when it cannot, another one lives: it exits with SESSION_EXIT_BUSY. Which of these it is to do follows from the
 * directory alone:
 *   no record               begin
 *   record, no report.json  go on after a crash, to an end
 *   report.json             everything has ended (a source: tell it once more, where phauld brings descriptors for that,
 *                           else nothing); only answer a peer that asks again (MSG_RESUME) from the record, for
 *                           SESSION_LINGER_MS after the last question, and leave report.json as it is
 *
 * Socket: SOCK_SEQPACKET, listening on RUNTIME/sessions/ID.sock (0600; the session unlinks a stale one before it binds,
 * and its own at the end). One client at a time; phauld connects again after its own restart, and the newer connection
 * replaces the older. One JSON object per packet, at most SESSION_PACKET_MAX bytes.
 *
 * From phauld:
 *   {"do": "attach", "peer": FINGERPRINT, "address": NUMERIC,
 *    "hello": {"purpose": "control" | "stream" | "bulk", "version_min": N, "version_max": N, "stream": N,
 *              "token": HEX (absent if none)}}
 *        with the record socket of the link (link_release()) as SCM_RIGHTS: the session adopts it with link_adopt() and
 *        answers with link_welcome() or link_refuse(). The peer is the one the migration began with; purpose, version,
 *        stream and token are as the peer sent them.
 *   {"do": "lane", "lane": 0 | 1, "direction": "both" | "in" | "out"}
 *        with a descriptor of a user as SCM_RIGHTS: for way "descriptors", once per lane or one packet a direction,
 *        and again after they were lost
 *   {"do": "cancel"}     answered by an event "cancel"
 *   {"do": "status"}     answered by the events about, state and progress as they are now; phauld sends it on
 *                        connecting
 *
 * From the session:
 *   {"event": "about", "kind", "name", "target_name", "mode"}    target: what the offer said
 *   {"event": "progress", …}                                     at most 10 a second; members as in the API
 *   {"event": "log", "level": "error" | "warning" | "info" | "debug", "text"}
 *   {"event": "state", "state": NAME, "phase": NAME}
 *   {"event": "verdict", "verdict": "ok" | "warning" | "error", "items": [{"id", "host", "grade", "reason"}]}
 *   {"event": "attention", "text", "waits": BOOL}                it stands still, and why: until the other host answers
 *                                                                (true) or a person does something; "": it goes on again
 *   {"event": "stalled", "text"}                                 post-copy: the link is down, it waits; "": it goes on
 *   {"event": "cancel", "ok": BOOL, "text"}                      ok false: too late, or nothing to cancel
 *   {"event": "result", …}                                       the report, as in report.json, after it is durable
 *   {"event": "bye"}                                             the last packet before it exits
 *
 * report.json: {"id", "kind", "name", "target_name", "source", "target", "mode", "result": "done" | "failed" |
 *   "cancelled" | "unknown" | "lost" | "refused" | "not-found" | "denied", "owner", "reason", "total_ms",
 *   "downtime_ms", "frozen_ms", "bytes_sent", "rounds", "tracker", "phases": […]}; a check has "verdict" and "items" as
 *   well.
 *
 * phauld takes the end of the socket (or of its child) as the end of the session. With report.json the migration has
 * ended; without one it is started again in the same directory, at most SESSION_RESTARTS times in SESSION_RESTARTS_MS,
 * then the migration needs attention. DIR of an ended check is removed at once, that of a migration after a week.
 */
/* clang-format on */

#define SESSION_PACKET_MAX 65536
#define SESSION_EXIT_BUSY 75
#define SESSION_LINGER_MS 10000
#define SESSION_CONNECT_RETRY_MS 20
#define SESSION_CONNECT_MS 5000
#define SESSION_RESTARTS 5
#define SESSION_RESTARTS_MS 60000
