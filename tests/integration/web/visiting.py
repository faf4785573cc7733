"""Who comes to the page: with a browser's cookies, and the forms that the page gave them."""

import re
from typing import Any

from httpx import Response
from pydantic import SecretStr
from sqlalchemy import Engine
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.factories import settings
from worker import sentinels
from worker.ops.census import Census
from worker.ops.web import app, users
from worker.ops.web.deps import Deps
from worker.ops.web.guard import Guard

PASSWORD = "correct horse battery"
CHEAP = (users.LEAST, 8, 1)
VERA = users.entry("vera", "viewer", PASSWORD, CHEAP)
OSKAR = users.entry("oskar", "operator", PASSWORD, CHEAP)
USERS = f"{VERA} {OSKAR}"

HERE, THERE = "http://127.0.0.1", "https://vcc.example"


class House:
    """The page over a real database, for these users.

    Attributes:
        engine: of the database.
        app: all of it, as it is served.
    """

    def __init__(self, engine: Engine, redis_url: str, web_users: str = USERS, **given: Any) -> None:
        self.engine = engine
        self.redis = sentinels.client(redis_url, socket_timeout=30, socket_connect_timeout=30)
        self.app = app.make(
            Deps(
                settings=settings(web_users=SecretStr(web_users), **given),
                engine=engine,
                redis=lambda: self.redis,
                census=Census(engine, leak_after=3600.0),
                ring=lambda: None,
            )
        )

    @property
    def guard(self) -> Guard:
        """What stands around everything."""
        assert isinstance(self.app, Guard)
        return self.app

    def routes(self, method: str) -> list[str]:
        """Tell every path that answers to a method, with a number where it takes one."""
        inner: Any = self.guard.app
        return [
            re.sub("{[^}]*}", "1", route.path)
            for route in inner.routes
            if isinstance(route, Route) and method in (route.methods or ())
        ]

    def visitor(self, base_url: str = HERE, **given: Any) -> "Visitor":
        """Open a browser."""
        return Visitor(self.app, base_url=base_url, follow_redirects=False, **given)

    def operator(self) -> "Visitor":
        """Open the browser of somebody who may change things."""
        return self.visitor().known("oskar")

    def viewer(self) -> "Visitor":
        """Open the browser of somebody who may look."""
        return self.visitor().known("vera")

    def ask(self, sql: str) -> Any:
        """Ask the database for one value."""
        with self.engine.begin() as conn:
            return conn.exec_driver_sql(sql).scalar()

    def run(self, sql: str) -> None:
        """Change the database behind the page's back."""
        with self.engine.begin() as conn:
            conn.exec_driver_sql(sql)

    def is_untouched(self) -> bool:
        """Whether nobody has changed anything by hand."""
        return bool(
            self.ask("select paused_at is null from gate")
            and self.ask(
                "select count(*) = 0 from audit where action not in ('login', 'logout', 'login failed')"
            )
        )


class Visitor(TestClient):
    """A browser, which follows nothing by itself."""

    def known(self, name: str) -> "Visitor":
        """Log in."""
        answer = self.log_in(name)
        assert answer.status_code == 303, answer.text
        return self

    def log_in(self, name: str, password: str = PASSWORD, back: str = "") -> Response:
        """Fill the form of the login in."""
        return self.submit("/login", {"name": name, "password": password, "next": back}, found_on="/login")

    def token(self, path: str = "/audit") -> str:
        """The token of a page's first form."""
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def submit(
        self, path: str, fields: dict[str, Any] | None = None, found_on: str = "/audit", **given: Any
    ) -> Response:
        """Send a form with the token of the page where it was found."""
        answer: Response = self.post(path, data={"csrf": self.token(found_on), **(fields or {})}, **given)
        return answer
