/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * How far a restore has come, as CRIU's action script (the hold program) notes it in the directory of the images, for
 * whoever has to know when CRIU can no longer be asked. A note is a file; it is made before CRIU goes on, and from then
 * on only renamed, which needs no room. No image that a peer sends can have such a name.
 */
enum criu_stage {
        CRIU_STAGE_NONE,     /* post-restore has not said yes: no task can have left CRIU's restorer */
        CRIU_STAGE_RELEASED, /* it has */
        CRIU_STAGE_UNLOCKED, /* network-unlock is over; CRIU runs it only for a workload with a network of its own */
        CRIU_STAGE_RESUMED,  /* pre-resume: CRIU has got through and lets the tasks go now */
};

/* What is noted. When it cannot be found out: CRIU_STAGE_RESUMED. */
enum criu_stage criu_stage_get(int images_fd);

/* Note it, coming from an earlier one (CRIU_STAGE_NONE: forget all). Negative errno. */
int criu_stage_set(int images_fd, enum criu_stage stage);
