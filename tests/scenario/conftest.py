# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scenarios: one site for all tests of a run, clean before each."""

import os

import pytest

from site_under_test import Site


@pytest.fixture(scope="session")
def whole_site():
    made = Site(os.environ.get("PHAUL_LAB", "scenario"), sanitize=bool(os.environ.get("PHAUL_TEST_SANITIZE")))
    yield made
    made.down()


@pytest.fixture
def site(whole_site):
    whole_site.ready()
    yield whole_site
    whole_site.clean()
    assert not whole_site.sanitizer_findings()


@pytest.fixture
def trees(site):
    """Hosts whose pids do not meet."""
    site.part_pids()
    for host in site.hosts.values():
        host.run("phaul", "ps")  # empty cgroups of trees that have ended go
    return site


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed scenario shows what the daemons said."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and "whole_site" in item.funcargs:
        report.sections.append(("logs of the hosts", item.funcargs["whole_site"].logs()))
