"""Embed on a Ray cluster: one actor per GPU, each the same worker on the same queue.

    pip install 'astropt-db[ray]'
    python jobs/embed_ray.py --encoder mini-vis_nisp --actors 8
    python jobs/embed_ray.py --encoder mini-vis --actors 2 --gpus 0      # CPUs only

The database is the one in ASTROPT_DB_URL or --db, and must be reachable from every node. Ray only
starts the workers: the queue in the database shares out the work, so an actor or node that dies
loses nothing, and more actors may join from anywhere.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

import click
import ray

from astropt_db.cli.options import ready_database
from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import find_encoder
from astropt_db.database.provenance import recorded_run
from astropt_db.embed.job import Settings, refresh_statistics, run_here
from astropt_db.embed.queue import plan


class EmbedActor:
    """A worker in a Ray actor."""

    def work(self, url: str, settings: dict[str, object], run_id: int) -> dict[str, int]:
        """Work until the queue is empty; what was done."""
        counts = run_here(Database(url), Settings(**settings), run_id)  # type: ignore[arg-type]
        return asdict(counts)


def main(arguments: list[str] | None = None) -> int:
    """Plan, start the actors, and wait until the queue is empty."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", required=True, help="encoder of the database")
    parser.add_argument("--actors", type=int, default=1, help="workers to start")
    parser.add_argument("--gpus", type=float, default=1.0, help="GPUs of each; 0 for CPUs only")
    parser.add_argument("--cpus", type=float, default=1.0, help="processor cores of each")
    parser.add_argument("--address", help="of the Ray cluster; by default a local one")
    parser.add_argument("--mode", choices=["fast", "reference"], default="fast")
    parser.add_argument("--db", help="PostgreSQL address, by default ASTROPT_DB_URL")
    options = parser.parse_args(arguments)

    database = ready_database(options.db)
    settings = asdict(
        Settings(
            options.encoder,
            device="cuda" if options.gpus else "cpu",
            mode=options.mode,
            threads=max(1, int(options.cpus)),
        )
    )
    with connect(database, autocommit=True) as connection:
        record = find_encoder(connection, options.encoder)
        planned = plan(connection, record)
    click.echo(f"{planned.sources:,} sources in {planned.chunks:,} new chunks", err=True)
    ray.init(address=options.address, include_dashboard=False, log_to_driver=True)
    # A dead actor is started again; its chunks went back to the queue.
    actor = ray.remote(num_gpus=options.gpus, num_cpus=options.cpus, max_restarts=10,
                       max_task_retries=10)(EmbedActor)  # fmt: skip
    with recorded_run(database, "embed", settings | {"workers": options.actors}) as run:
        workers = [actor.remote() for _ in range(options.actors)]
        calls = [one.work.remote(database.url, settings, run.id) for one in workers]
        results = ray.get(calls)
        run.counts = {
            name: sum(result[name] for result in results) for name in ("embedded", "problems")
        }
    refresh_statistics(database, record)
    ray.shutdown()
    click.echo(f"embedded {run.counts['embedded']:,} / without a vector {run.counts['problems']:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
