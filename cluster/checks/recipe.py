"""What a recipe needs: its weights on every node, and the caption servers within reach."""

import asyncio
from collections.abc import Sequence

from captioning.fitness import models
from captioning.preflight import each
from captioning.protocol import Key, open_session
from cluster.checks import Check, Verdict
from curation.recipe import Recipe, comes_unasked, pull_command, weights_of
from dataset.errors import UsageError
from filters import weights


def weights_there(recipe: Recipe) -> Check:
    chain = recipe.build()
    wanted = weights_of(chain)
    if not wanted:
        return Check("weights", "skipped", f"recipe {recipe.name} needs none")
    try:
        missing = [name for name in wanted if not weights.available(name)]
    except weights.MissingWeights as e:
        return Check("weights", "bad", str(e), "remove the other file")
    if not missing:
        return Check("weights", "ok", f"all {len(wanted)} of recipe {recipe.name}")
    what = f"missing {', '.join(missing[:3])}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
    if all(map(comes_unasked, missing)):
        sources = sorted({str(weights.entry(name).source) for name in missing})
        return Check(
            "weights", "warn", f"{what}: will be fetched from {', '.join(sources)}", "s2v doctor --fetch there"
        )
    remedy = f"{pull_command(chain, missing)}, on the node or into what $S2V_WEIGHTS names"
    return Check("weights", "bad", what, remedy)


def servers_answer(recipe: Recipe, key: Key) -> Check:
    servers = recipe.captioning.servers
    if not servers:
        return Check("caption servers", "skipped", "none named")
    try:
        served = asyncio.run(ask(servers, key))
    except UsageError as e:
        return Check("caption servers", "bad", str(e), "see the message")
    silent = [url for url, names in served.items() if names is None]
    if silent:
        remedy = "start them: s2v caption serve; or check the address and the network"
        verdict: Verdict = "bad" if len(silent) == len(servers) else "warn"
        return Check("caption servers", verdict, f"no answer from {', '.join(silent)}", remedy)
    names = sorted({name for found in served.values() for name in found or ()})
    return Check("caption servers", "ok", f"{len(servers)} answer: {', '.join(names)}")


async def ask(servers: Sequence[str], key: Key) -> dict[str, dict[str, int | None] | None]:
    async with open_session(20, key) as session:
        return await each(servers, lambda url: models(session, url))
