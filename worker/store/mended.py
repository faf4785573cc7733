"""Rejected jobs that an operator mends and sends again."""

from sqlalchemy import Connection


def end(conn: Connection, rejection: int) -> None:
    """Forget a rejected job, now that it is recorded after all."""
    conn.exec_driver_sql("delete from rejections where id = %(id)s", {"id": rejection})


def forget_try(conn: Connection, door: str, place: str) -> None:
    """Forget tries at mending one that were rejected as well: the first stands for them."""
    conn.exec_driver_sql(
        "delete from rejections where door = %(door)s and place = %(place)s", {"door": door, "place": place}
    )
