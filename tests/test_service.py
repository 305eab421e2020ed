"""The systemd unit: valid, well locked up, and not restarted for what a restart cannot heal."""
import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import mail_relay_tracker as tracker

UNIT = ROOT / "mail_relay_tracker.service"


@pytest.fixture(scope="module")
def unit():
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def analyze(tmp_path, *arguments):
    shutil.copy(str(UNIT), str(tmp_path))
    return subprocess.run(["systemd-analyze", *arguments, str(tmp_path / UNIT.name)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False)


def test_systemd_finds_nothing_to_say_about_the_unit(tmp_path):
    done = analyze(tmp_path, "verify")
    assert (done.returncode, done.stdout.decode()) == (0, "")


def test_exposure_is_small(tmp_path):
    done = analyze(tmp_path, "security", "--offline=true", "--no-pager")
    assert float(re.search(rb"Overall exposure level for \S+: ([0-9.]+)", done.stdout).group(1)) <= 2.0


def test_it_runs_as_its_own_user_reads_the_log_by_group_adm_and_keeps_state(unit):
    service = unit["Service"]
    assert service["User"] == "mail-relay-tracker" and service["SupplementaryGroups"] == "adm"
    default = next(option.default for option in tracker.OPTIONS if option.key == "state_file")
    assert default.startswith("/var/lib/%s/" % service["StateDirectory"])


def test_the_journal_calls_it_by_its_name(unit):
    """Its messages there do not name the program themselves."""
    assert unit["Service"]["SyslogIdentifier"] == "mail_relay_tracker"


def test_its_command_starts_the_program(unit, tmp_path):
    """It is found where README puts it, and speaks in its own name."""
    words = shlex.split(unit["Service"]["ExecStart"])
    config = words[words.index("-c") + 1] = str(tmp_path / "none.conf")
    installed = re.search(r"Environment=PYTHONPATH=(\S+)", UNIT.read_text(encoding="utf-8")).group(1)
    assert "mail_relay_tracker.py %s/" % installed in (ROOT / "README.md").read_text(encoding="utf-8")
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    done = subprocess.run(words, env=dict(os.environ, PATH=path, PYTHONPATH=str(ROOT)), cwd=str(tmp_path), stderr=subprocess.PIPE,
                          check=False)
    assert done.returncode == tracker.ConfigError.exit_code
    assert done.stderr.startswith(b"mail_relay_tracker: configuration %s: " % os.fsencode(config))


def test_restarted_on_failure_but_not_for_a_wrong_configuration(unit):
    service = unit["Service"]
    assert service["Restart"] == "on-failure"
    never = set(map(int, service["RestartPreventExitStatus"].split()))
    assert never == {error.exit_code for error in (tracker.UsageError, tracker.ConfigError, tracker.StoreRefused)}
    passing = {error.exit_code for error in (tracker.LogError, tracker.StoreGone, tracker.OutputError, tracker.StateTaken)}
    assert not never & passing and service["RestartForceExitStatus"] == "SIGHUP"
