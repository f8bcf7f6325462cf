"""The endpoint that most would write for the same upsert: FastAPI, SQLAlchemy, SQLite.

`python -m benchmarks.fastapi_endpoint FILE` serves `PUT /v5/spans/batch` on a free port, which it
prints. It is not made slow: one statement upserts the whole batch, and the answer is a count.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel
from sqlalchemy import JSON, Engine, Index, create_engine, event, func
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker


class Base(DeclarativeBase):
    pass


class Span(Base):
    __tablename__ = "spans"
    __table_args__ = (
        Index("spans_by_start", "account", "start_timestamp"),
        Index("spans_by_trace", "account", "trace_id"),
    )

    account: Mapped[str] = mapped_column(primary_key=True)
    trace_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    start_timestamp: Mapped[datetime]
    end_timestamp: Mapped[datetime | None]
    parent_id: Mapped[str | None]
    type: Mapped[str | None]
    status: Mapped[str | None]
    input: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    output: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    span_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON)


class SpanCreate(BaseModel):
    id: str
    trace_id: str
    name: str
    start_timestamp: datetime
    end_timestamp: datetime | None = None
    parent_id: str | None = None
    type: str | None = None
    status: str | None = None
    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class Batch(BaseModel):
    items: list[SpanCreate]


class Stored(BaseModel):
    stored: int


make_session = sessionmaker()


def get_session() -> Iterator[Session]:
    with make_session() as session:
        yield session


def create_app(engine: Engine) -> FastAPI:
    Base.metadata.create_all(engine)
    make_session.configure(bind=engine)
    app = FastAPI()

    @app.put("/v5/spans/batch")
    def write_batch(
        batch: Batch,
        session: Annotated[Session, Depends(get_session)],
        x_selected_account_id: Annotated[str, Header()],
    ) -> Stored:
        rows = [{"account": x_selected_account_id, **item.model_dump()} for item in batch.items]
        statement = insert(Span).values(rows)
        # A null never erases: an END may overtake its START.
        changes = {
            column.name: func.coalesce(statement.excluded[column.name], column)
            for column in Span.__table__.columns
            if not column.primary_key
        }
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["account", "trace_id", "id"], set_=changes
            )
        )
        session.commit()
        return Stored(stored=len(rows))

    return app


def main() -> None:
    engine = create_engine(f"sqlite:///{sys.argv[1]}")

    @event.listens_for(engine, "connect")
    def make_durable(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = full")

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(create_app(engine), log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
