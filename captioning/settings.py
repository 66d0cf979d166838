"""How clips are captioned: part of a recipe, and of `s2v caption`."""

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from captioning.frames import Sight


class Captioning(BaseModel):
    """Servers that speak the OpenAI protocol, and what they are asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: tuple[str, ...] = ()  # such as http://gpu-1:8000; none: clips are not captioned
    model: str | None = None  # as the servers call it; None: the one that they serve
    concurrency: int = Field(16, ge=1)  # requests in flight on each server: its --max-num-seqs
    sight: Sight = Sight()
    max_tokens: int = Field(2048, ge=64)  # of an answer; a caption takes about 600
    timeout: float = Field(600.0, gt=0)  # seconds that an answer may take
    patience: float = Field(1200.0, ge=0)  # seconds to wait for a server when none is there: 72B takes minutes to load

    @field_validator("servers")
    @classmethod
    def addresses(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        """Without a path: http://host:port/v1 is the same server as http://host:port."""
        return tuple(dict.fromkeys(address(server) for server in servers))


def address(server: str) -> str:
    if "@" in server:
        raise ValueError("an address must not hold a password: set VLLM_API_KEY in the environment instead")
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{server}' is not the address of a server, such as http://127.0.0.1:8000")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
