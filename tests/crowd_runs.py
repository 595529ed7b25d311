"""Runs of pipelines with scripted workers, for the tests of crowd/."""

from __future__ import annotations

from hierrouter_jax.crowd.journal import Journal
from hierrouter_jax.crowd.runner import Crew, Runner
from hierrouter_jax.crowd.workers.scripted_worker import ScriptedWorker


def scripted(respond, **options):
    """A scripted worker; `respond(ask)` gives the text, or a mapping from names of sub-tasks to texts or functions."""
    if callable(respond):
        return ScriptedWorker(respond, **options)

    def by_name(ask):
        found = respond[ask.subtask.name]
        return found(ask) if callable(found) else found

    return ScriptedWorker(by_name, **options)


def run_scripted(pipeline, worker, folder, *, run="run", **options):
    """The outcome of a pipeline whose roles are all filled by one worker."""
    return run_crew(pipeline, Crew(workers={"script": worker}, roles={"*": "script"}), folder, run=run, **options)


def run_crew(pipeline, crew, folder, *, run="run", waits=False, **options):
    """The outcome of a pipeline with a crew, its journal in `folder`."""
    with Journal(folder / "store.sqlite") as journal:
        return Runner(crew, journal, run, **options).run(pipeline, waits=waits)


def asked_names(worker):
    """The names of the sub-tasks a scripted worker was asked, in order."""
    return [ask.subtask.name for ask in worker.asked]
