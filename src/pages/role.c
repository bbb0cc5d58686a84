/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pages/role.h"

#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the kernel looks through when this thread dies. */
static _Thread_local struct robust_list_head list;
static _Thread_local uint32_t owner; /* whose list it is: a child has its parent's memory, and no list */

static uint32_t begin(void)
{
        const uint32_t self = (uint32_t)syscall(SYS_gettid);

        if (owner != self) {
                list.list.next = &list.list;
                list.list_op_pending = NULL;
                list.futex_offset = (long)offsetof(struct role, holder) - (long)offsetof(struct role, node);
                (void)syscall(SYS_set_robust_list, &list, sizeof(list));
                owner = self;
        }
        return self;
}

bool role_take(struct role *role)
{
        const uint32_t self = begin();
        uint32_t was = __atomic_load_n(&role->holder, __ATOMIC_ACQUIRE);

        if (was & FUTEX_TID_MASK)
                return false;
        /* Who dies between the next two lines is found by this. */
        __atomic_store_n(&list.list_op_pending, &role->node, __ATOMIC_SEQ_CST);
        const bool taken =
                __atomic_compare_exchange_n(&role->holder, &was, self, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
        if (taken) {
                role->node.next = list.list.next;
                __atomic_store_n(&list.list.next, &role->node, __ATOMIC_SEQ_CST);
        }
        __atomic_store_n(&list.list_op_pending, NULL, __ATOMIC_SEQ_CST);
        return taken;
}

void role_leave(struct role *role)
{
        struct robust_list *before = &list.list;

        (void)begin();
        __atomic_store_n(&list.list_op_pending, &role->node, __ATOMIC_SEQ_CST);
        while (before->next != &role->node && before->next != &list.list)
                before = before->next;
        if (before->next == &role->node)
                __atomic_store_n(&before->next, role->node.next, __ATOMIC_SEQ_CST);
        __atomic_store_n(&role->holder, 0, __ATOMIC_SEQ_CST);
        __atomic_store_n(&list.list_op_pending, NULL, __ATOMIC_SEQ_CST);
}
