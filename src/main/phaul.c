/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <signal.h>

#include "cli/cli.h"

int main(int argc, char **argv)
{
        (void)signal(SIGPIPE, SIG_IGN);
        return cli_main(argc, argv);
}
