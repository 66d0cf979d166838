"""Is a server fit for a run: is it there, does it serve the model, and does it take what clips send?"""

import aiohttp
import numpy as np

from captioning import prompt
from captioning.frames import CELL, Frames, jpeg
from captioning.protocol import TIMED_OUT, TOO_MANY, brief, encode, parse, post, refuses, request
from captioning.servers import Unfit
from captioning.settings import Captioning


async def fit(session: aiohttp.ClientSession, settings: Captioning, model: str, url: str) -> bool:
    """One token of a caption of the largest clip there may be. False: the server isn't there, or not yet.

    Raises Unfit for one that would refuse every clip, or the largest ones.
    """
    served = await models(session, url)
    if served is None:
        return False
    if model not in served:
        raise Unfit(f"serves {', '.join(served) or 'no model'}, not {model}: see --model")
    frames = largest(settings)
    body = request(settings, model, prompt.messages(frames), frames) | {"max_tokens": 1}
    status, text = await post(session, url, encode(body))
    if refuses(status):
        raise Unfit(f"refuses what every clip would send: {status} {brief(text)}")
    if status in (TOO_MANY, TIMED_OUT):
        return True  # it is there, and busy with others
    reply = parse(text) if status == 200 else None
    if reply is None:
        return False
    room, need = served[model], reply.prompt_tokens + settings.max_tokens
    if room and need > room:
        raise Unfit(
            f"has room for {room:,} tokens, and a clip of {len(frames.jpegs)} pictures takes up to {need:,}: start it "
            "with a larger --max-model-len, or show fewer or smaller pictures (`captioning.sight`)"
        )
    return True


def largest(settings: Captioning) -> Frames:
    """Grey pictures, as many and as large as `settings.sight` lets a clip have."""
    sight = settings.sight
    count = sight.most + sight.most % 2
    side = int(sight.pixels**0.5 / CELL) * CELL
    grey = jpeg(np.full((side, side, 3), 128, np.uint8))
    return Frames((grey,) * count, sight.fps, count / sight.fps, side, side)


async def models(session: aiohttp.ClientSession, url: str) -> dict[str, int | None] | None:
    """What a server serves, and how many tokens each model has room for. None: it doesn't answer.

    Raises Unfit for one that wants another key, or doesn't speak the protocol.
    """
    try:
        async with session.get(f"{url}/v1/models") as answer:
            if answer.status in (401, 403):
                raise Unfit("wants a key: set VLLM_API_KEY to the one that it was started with")
            if answer.status != 200:
                return None  # a proxy whose server is down
            data = await answer.json(content_type=None)
        return {str(entry["id"]): int(entry.get("max_model_len") or 0) or None for entry in data["data"]}
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Unfit("is no server of the OpenAI protocol") from None
