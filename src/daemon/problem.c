/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/problem.h"

#include <errno.h>

static const struct {
        unsigned status;
        const char *title;
} titles[] = {
        {400, "Bad Request"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {500, "Internal Server Error"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
};

unsigned problem_status(const struct error *err)
{
        switch (err->kind) {
        case ERROR_USAGE:
                return err->code == E2BIG ? 413 : 400;
        case ERROR_REFUSED:
                return err->code == EEXIST || err->code == EBUSY || err->code == EALREADY ? 409 : 422;
        case ERROR_NOT_FOUND:
                return 404;
        case ERROR_DENIED:
                return 403;
        case ERROR_CANCELLED:
                return 409;
        case ERROR_NONE:
        case ERROR_FAILED:
        case ERROR_UNKNOWN:
        case ERROR_LOST:
                break;
        }
        switch (err->code) {
        case ETIMEDOUT:
                return 504;
        case ECONNREFUSED:
        case ECONNRESET:
        case EHOSTUNREACH:
        case ENETUNREACH:
        case ENOTCONN:
        case EPROTO:
        case EBADMSG:
                return 502;
        case EALREADY: /* too late: it has ended, or is committed */
        case ETOOMANYREFS:
                return 409;
        default:
                return 500;
        }
}

json_t *problem_document(unsigned status, const struct error *err)
{
        const char *title = "Error";

        if (status == 0)
                status = problem_status(err);
        for (size_t i = 0; i < sizeof(titles) / sizeof(titles[0]); i++)
                if (titles[i].status == status)
                        title = titles[i].title;

        json_t *document = json_pack("{s:s, s:s, s:i, s:s}", "type", "about:blank", "title", title, "status",
                                     (int)status, "kind", error_kind_name(err->kind));
        if (!document)
                return NULL;
        /* A text that came from a peer may not be UTF-8 in the end, cut as it may be: jansson then refuses it. */
        json_t *detail = json_string(err->text);
        if (json_object_set_new(document, "detail", detail ? detail : json_string("(unprintable)")) < 0) {
                json_decref(document);
                return NULL;
        }
        return document;
}
