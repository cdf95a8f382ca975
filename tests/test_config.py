"""Which configuration value counts, where it came from, and what is never shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from oncebox.cli import main
from oncebox.errors import ConfigurationError
from oncebox.service.config import (
    Sources,
    check_variables,
    find_services,
    read_file,
    shown,
    variable,
)

Show = Callable[..., dict[str, tuple[Any, str]]]

SERVICES = """
from oncebox import Service
shop = Service("shop", store="sqlite:///code-shop.db", log="sqlite:///code-log.db")
billing = Service("billing", store="sqlite:///code-billing.db")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder and environment; modules imported from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "LOG", "SCHEMA", "APP", "STATE", "CONFIG"):
        for suffix in ("", "_FILE"):
            monkeypatch.delenv(f"ONCEBOX_{name}{suffix}", raising=False)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("oncebox", "cyclopts", "rich")):
            del sys.modules[name]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """`oncebox config show` with flags: name to (value, origin)."""

    def run(*flags: str) -> dict[str, tuple[Any, str]]:
        code = main(["config", "show", "--json", *flags])
        out, err = capsys.readouterr()
        assert code == 0, err
        rows = [json.decode(text) for text in out.splitlines()]
        return {row["name"]: (row["value"], row["origin"]) for row in rows}

    return run


def test_defaults(show: Show) -> None:
    found = show()
    assert found["store"] == (None, "default")
    assert found["schema"] == ("oncebox", "default")
    assert found["settings.batch_max"] == (500, "default")


def test_flags_before_environment_before_file_before_default(
    folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "oncebox.toml").write_text('store = "sqlite:///file.db"\nschema = "filed"\n')
    assert show()["store"] == ("sqlite:///file.db", "oncebox.toml")
    monkeypatch.setenv("ONCEBOX_STORE", "sqlite:///env.db")
    assert show()["store"] == ("sqlite:///env.db", "ONCEBOX_STORE")
    found = show("--store", "sqlite:///flag.db")
    assert found["store"] == ("sqlite:///flag.db", "--store")
    assert found["schema"] == ("filed", "oncebox.toml")


def test_code_counts_before_defaults_and_after_all_else(
    folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "myapp.py").write_text(SERVICES)
    found = show("--app", "myapp")
    assert found["services.shop.store"] == ("sqlite:///code-shop.db", "code")
    assert found["services.billing.log"] == (None, "default")
    monkeypatch.setenv("ONCEBOX_LOG", "sqlite:///env-log.db")
    found = show("--app", "myapp")
    assert found["services.shop.log"] == ("sqlite:///env-log.db", "ONCEBOX_LOG")
    assert found["services.billing.log"] == ("sqlite:///env-log.db", "ONCEBOX_LOG")


def test_what_is_said_for_one_service_counts_before_what_is_said_for_all(
    folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "myapp.py").write_text(SERVICES)
    (folder / "oncebox.toml").write_text(
        'app = "myapp"\nstore = "sqlite:///all.db"\n[services.billing]\nstore = "sqlite:///b.db"\n'
    )
    found = show()
    assert found["services.shop.store"] == ("sqlite:///all.db", "oncebox.toml")
    assert found["services.billing.store"] == (
        "sqlite:///b.db", "oncebox.toml [services.billing]")  # fmt: skip
    monkeypatch.setenv("ONCEBOX_STORE", "sqlite:///env.db")
    assert show()["services.billing.store"] == ("sqlite:///env.db", "ONCEBOX_STORE")
    monkeypatch.setenv("ONCEBOX_SERVICES_BILLING_STORE", "sqlite:///env-b.db")
    found = show()
    assert found["services.billing.store"][0] == "sqlite:///env-b.db"
    assert found["services.shop.store"][0] == "sqlite:///env.db"
    found = show("--store", "sqlite:///flag.db")
    assert found["services.billing.store"] == ("sqlite:///flag.db", "--store")


def test_an_object_passed_in_code_wins(
    folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "myapp.py").write_text(
        "from sqlalchemy import create_engine\nfrom oncebox import Service\n"
        'shop = Service("shop", store=create_engine("sqlite:///engine.db"))\n'
    )
    monkeypatch.setenv("ONCEBOX_STORE", "sqlite:///env.db")
    found = show("--app", "myapp", "--store", "sqlite:///flag.db")
    assert found["services.shop.store"] == ("<sqlalchemy Engine>", "code")


def test_settings_from_everywhere(
    folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "oncebox.toml").write_text(
        "http = 9464\n[settings]\nbatch_max = 7\nbackoff_s = 1.5\nstart = 2026-05-03T10:00:00Z\n"
    )
    monkeypatch.setenv("ONCEBOX_SETTINGS_BACKOFF_S", "2.5")
    found = show()
    assert found["settings.batch_max"] == (7, "oncebox.toml")
    assert found["settings.backoff_s"] == (2.5, "ONCEBOX_SETTINGS_BACKOFF_S")
    assert found["settings.start"][0] == "2026-05-03T10:00:00+00:00"


def test_pyproject_is_read_where_there_is_no_file_of_ours(folder: Path, show: Show) -> None:
    (folder / "pyproject.toml").write_text('[tool.oncebox]\nstore = "sqlite:///project.db"\n')
    assert show()["store"] == ("sqlite:///project.db", "pyproject.toml [tool.oncebox]")
    (folder / "oncebox.toml").write_text("")
    assert show()["store"] == (None, "default")


def test_the_nearest_folder_above_counts(
    folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "oncebox.toml").write_text('store = "sqlite:///above.db"\n')
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "pyproject.toml").write_text('[project]\nname = "x"\n')
    monkeypatch.chdir(folder / "a" / "b")
    assert show()["store"][0] == "sqlite:///above.db"


def test_a_file_by_name(folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "oncebox.toml").write_text('store = "sqlite:///here.db"\n')
    (folder / "production.toml").write_text('store = "sqlite:///there.db"\n')
    assert show("--config", "production.toml")["store"] == ("sqlite:///there.db", "production.toml")
    monkeypatch.setenv("ONCEBOX_CONFIG", "production.toml")
    assert show()["store"][0] == "sqlite:///there.db"


def test_a_secret_from_a_file(folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = folder / "secret"
    secret.write_text("postgresql://shop:hunter2@db/shop\n")
    monkeypatch.setenv("ONCEBOX_STORE_FILE", str(secret))
    assert show()["store"] == ("postgresql://shop:***@db/shop", "ONCEBOX_STORE_FILE")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "is empty"), (b"x" * 70_000, "too long"), (b"\xff", "utf-8")],
)
def test_a_secret_file_that_cannot_be(folder: Path, content: bytes | None, message: str) -> None:
    path = folder / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        variable({"ONCEBOX_STORE_FILE": str(path)}, "store")


def test_a_value_and_a_file_for_it_contradict() -> None:
    both = {"ONCEBOX_STORE": "x", "ONCEBOX_STORE_FILE": "y"}
    with pytest.raises(ConfigurationError, match="both set"):
        variable(both, "store")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('stor = "x"', r"unknown setting stor. did you mean store\?"),
        ('zzz = "x"', "unknown setting zzz; expected one of store, "),
        ("[settings]\nbatch = 1", "unknown setting settings.batch"),
        ("batch_max = 1", r"did you mean settings.batch_max\?"),
        ('[services.billing]\nlgo = "x"', r"did you mean log\?"),
        ('[services.billing]\nsettings = "x"', "unknown setting services.billing.settings"),
        ("store = 3", "store = 3; expected text"),
        ('services = "x"', r"a table: \[services\]"),
        ('[services]\nbilling = "x"', "expected a table"),
        ("[services.billing.sources]\n'/shop/orders' = 3", "expected text"),
        ("store = ", "oncebox.toml: "),
    ],
)
def test_a_file_with_a_mistake_says_where(folder: Path, text: str, message: str) -> None:
    (folder / "oncebox.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_file(None)


def test_a_mistake_in_the_file_is_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "oncebox.toml").write_text('stor = "x"')
    assert main(["status"]) == 2
    assert "unknown setting stor" in capsys.readouterr().err


def test_stores_of_sources(folder: Path, show: Show) -> None:
    (folder / "myapp.py").write_text(SERVICES)
    (folder / "oncebox.toml").write_text(
        'app = "myapp"\n[services.billing.sources]\n"/shop/orders" = "sqlite:///shop.db"\n'
    )
    assert show()["services.billing.sources./shop/orders"] == ("sqlite:///shop.db", "oncebox.toml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("STOER", r"ONCEBOX_STOER is set.*did you mean ONCEBOX_STORE\?"),
        ("STORE_FIL", r"did you mean ONCEBOX_STORE_FILE\?"),
        ("SETTINGS_BATCHMAX", r"did you mean ONCEBOX_SETTINGS_BATCH_MAX\?"),
        ("SETTINGS_NONSENSE", "expected ONCEBOX_SETTINGS_… with one of concurrency, "),
        ("SERVICES_BILLING_STOER", "STORE, LOG or SCHEMA"),
    ],
)
def test_a_variable_that_is_mistyped_is_an_error(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_variables({f"ONCEBOX_{name}": "1"})


def test_what_others_set_is_theirs() -> None:
    """Kubernetes does so for a service called oncebox, our own suite for its engines."""
    theirs = ("PORT", "PORT_80_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT_HTTP", "VERSION", "ENGINES",
              "TEST_KAFKA")  # fmt: skip
    ours = ("STORE", "LOG_FILE", "REGISTRY", "REGISTRY_TOKEN", "SETTINGS_BACKOFF_S", "HTTP",
            "SERVICES_MY_SHOP_STORE", "SERVICES_MY_SHOP_LOG_FILE")  # fmt: skip
    check_variables({f"ONCEBOX_{name}": "1" for name in (*theirs, *ours)})


def test_a_mistyped_variable_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCEBOX_SERVICES_SHOP_STOER", "sqlite:///x.db")
    assert main(["status"]) == 2
    assert "ONCEBOX_SERVICES_SHOP_STOER is set" in capsys.readouterr().err


def test_the_registry_from_the_environment_and_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["schema", "push"]) == 2
    assert "no registry is known" in capsys.readouterr().err
    (folder / "oncebox.toml").write_text('registry = "http://localhost:1"\n')
    assert main(["schema", "push"]) == 2
    assert "there is no oncebox.lock" in capsys.readouterr().err
    (folder / "oncebox.toml").unlink()
    monkeypatch.setenv("ONCEBOX_REGISTRY", "http://localhost:1")
    assert main(["schema", "push"]) == 2
    assert "there is no oncebox.lock" in capsys.readouterr().err


def test_variables_of_no_setting_are_nobodys(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that acts is never taken from the environment or a file."""
    for name in ("KEY", "ALL", "JSON", "YES", "DRY_RUN"):
        monkeypatch.setenv(f"ONCEBOX_{name}", "1")
    show()
    assert main(["redrive", "billing", "--store", "sqlite:///x.db"]) == 2


# ---- what is shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("sqlite:///file.db", "sqlite:///file.db"),
        ("postgresql://shop:hunter2@db/shop", "postgresql://shop:***@db/shop"),
        ("postgresql://shop:hun/ter@2@db:5432/shop", "postgresql://shop:***@db:5432/shop"),
        ("postgresql://shop@db/shop?password=hunter2&x=1", "postgresql://shop@db/shop?password=***&x=1"),
        ("postgresql://db/shop?sslpassword=hunter2", "postgresql://db/shop?sslpassword=***"),
        ("kafka://b:9092?sasl.password=hunter2", "kafka://b:9092?sasl.password=***"),
        ("host=db password=hunter2 user=x", "host=db password=*** user=x"),
        (["postgresql://a:b@c/d"], ["postgresql://a:***@c/d"]),
        (3, 3),
        (None, None),
        (object(), "<builtins object>"),
    ],
)  # fmt: skip
def test_secrets_are_never_shown(value: object, text: object) -> None:
    assert shown(value) == text
    assert "hunter2" not in str(shown(value))


# ---- finding services


def test_services_are_found_in_modules(folder: Path) -> None:
    (folder / "myapp.py").write_text(SERVICES)
    assert sorted(find_services(["myapp"])) == ["billing", "shop"]
    assert sorted(find_services(["myapp:shop"])) == ["shop"]


def test_a_function_may_make_services(folder: Path) -> None:
    (folder / "maker.py").write_text(
        "from oncebox import Service\ndef make():\n    return [Service('a'), Service('b')]\n"
    )
    assert sorted(find_services(["maker:make"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("x = 1", "mine", "holds no service"),
        ("x = 1", "mine:x", "is a int"),
        ("x = 1", "mine:y", "has no y"),
        (None, "nowhere", "no module nowhere"),
    ],
)
def test_what_holds_no_service_is_said(
    folder: Path, code: str | None, name: str, message: str
) -> None:
    if code is not None:
        (folder / "mine.py").write_text(code)
    with pytest.raises(ConfigurationError, match=message):
        find_services([name])


@pytest.mark.parametrize(
    ("code", "line", "what"),
    [
        ("import not_installed_anywhere", 1, "ModuleNotFoundError: No module named"),
        ("x = 1\nfrom os import no_such_name", 2, "ImportError: cannot import name"),
        ("def f(:", 1, "SyntaxError: invalid syntax"),
        ("import json\njson.loads('{')", 2, "JSONDecodeError: Expecting property name"),
        ("def f():\n    raise KeyError('k')\nf()", 2, "KeyError: 'k'"),
        ("def make():\n    return [1 / 0]", 2, "ZeroDivisionError"),
        ("from oncebox import Service\nService('a b')", 2, "service 'a b'"),
        ("raise OSError('postgresql://me:geheim@host/x')", 1, "postgresql://me:*.*@host/x"),
    ],
)
def test_an_error_of_the_applications_code_names_file_and_line(
    folder: Path, capsys: pytest.CaptureFixture[str], code: str, line: int, what: str
) -> None:
    (folder / "mine.py").write_text(code)
    (folder / "with_it.py").write_text("import mine\n")
    name = "mine:make" if "make" in code else "with_it"
    for command in (("run", "--app", name), ("schema", "lock", "--app", name)):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert re.search(what, err)
        assert f"position: {folder / 'mine.py'}:{line}" in err
        assert "Traceback" not in err
        assert "geheim" not in err
    assert main(["run", "--app", name, "--verbose"]) == 2
    err = capsys.readouterr().err
    assert "geheim" not in err
    assert ("Traceback" in err) == ("Service(" not in code)  # an error of ours has no cause


def test_djangos_settings_that_are_not_there_are_named(folder: Path) -> None:
    """In a process of its own: Django is set up once in each."""
    done = subprocess.run(
        [sys.executable, "-m", "oncebox", "run", "--app", "mine"], cwd=folder, check=False,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "no_such_settings"}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "DJANGO_SETTINGS_MODULE=no_such_settings: " in done.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("batch-max", "0"), ("lease-s", "-1"), ("backoff-s", "-0.1")]
)
def test_a_bound_that_lets_nothing_through_is_refused(
    capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    assert main(["config", "show", f"--settings.{name}", value]) == 2
    assert f"setting {name.replace('-', '_')} = {value}" in capsys.readouterr().err


def test_several_modules_from_the_environment(
    folder: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(f"from oncebox import Service\nx = Service({name!r})\n")
    monkeypatch.setenv("ONCEBOX_APP", "one, two")
    found = show()
    assert found["app"] == (["one", "two"], "ONCEBOX_APP")
    assert {"services.one.store", "services.two.store"} <= found.keys()


def test_two_services_of_one_name(folder: Path) -> None:
    (folder / "one.py").write_text("from oncebox import Service\nx = Service('shop')\n")
    (folder / "two.py").write_text("from oncebox import Service\nx = Service('shop')\n")
    (folder / "three.py").write_text("from one import x\n")
    with pytest.raises(ConfigurationError, match="two services"):
        find_services(["one", "two"])
    assert list(find_services(["one", "three"])) == ["shop"]


def test_sources_answer_without_flags_or_file() -> None:
    sources = Sources({"ONCEBOX_SERVICES_MY_SHOP_STORE": "x"})
    assert sources.value("store", "my-shop", None).value == "x"
    assert sources.value("store", "other", "y") == ("y", "code")
    assert sources.value("store", None, None) == (None, "default")


def test_a_setting_of_the_wrong_kind_says_which_and_where(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "oncebox.toml").write_text('[settings]\nbatch_max = "many"\n')
    assert main(["config", "show"]) == 2
    assert "settings.batch_max from oncebox.toml" in capsys.readouterr().err
    monkeypatch.setenv("ONCEBOX_SETTINGS_BATCH_MAX", "more")
    assert main(["config", "show"]) == 2
    assert "settings.batch_max from ONCEBOX_SETTINGS_BATCH_MAX" in capsys.readouterr().err
