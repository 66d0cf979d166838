"""Object stores: putting a file there for certain, and what one says when it refuses, as a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dataset.errors import RunError

PUTS = 3
DENIED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
ELSEWHERE = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


def put(fs: Any, target: str, data: bytes) -> None:
    """Write an object and look whether it is there: a store may say that it took one that it then doesn't have."""
    for _ in range(PUTS):
        answer = None
        try:
            answer = fs.pipe_file(target, data)
        except FileNotFoundError as e:  # the answer to the end of an upload in pieces was lost, and there is no second
            if code_of(e) != "NoSuchUpload":
                raise
        if holds(fs, target, data, answer):
            return
    bucket = target.split("/")[0]
    raise RunError(f"The store says that it took {target} and doesn't have it: look after the bucket {bucket}.")


def holds(fs: Any, target: str, data: bytes, answer: Any) -> bool:
    """Are these bytes there, or others of the same size that were to be overwritten? answer: of the store to the put.

    An object is known by the tag that its put was answered with, whatever a store makes tags of. Where it has another
    one, its bytes are read: the store may have changed it, or somebody else put the same. Of uploads in pieces (100 MB
    and more) s3fs tells no tag, and the size has to do.
    """
    found = info_of(fs, target)
    if found is None or found["size"] != len(data):
        return False
    tag = answer.get("ETag") if isinstance(answer, dict) else None
    return not tag or tag == found.get("ETag") or fs.cat_file(target) == data


def size_of(fs: Any, path: str) -> int | None:
    """Bytes of an object, asked of the store; None: it isn't there."""
    found = info_of(fs, path)
    return found["size"] if found else None


def info_of(fs: Any, path: str) -> dict[str, Any] | None:
    fs.invalidate_cache(path.rsplit("/", 1)[0])
    try:
        return fs.info(path)
    except FileNotFoundError as e:
        if code_of(e) == "NoSuchBucket":
            raise
        return None


@contextmanager
def told(place: str) -> Iterator[None]:
    """What a store says beyond 'there is no such object' ends the run with a sentence about `place`, an address."""
    try:
        yield
    except Exception as e:
        if "://" in place and (sentence := trouble(e, place)):
            raise RunError(sentence) from e
        raise


def trouble(error: BaseException, place: str) -> str | None:
    """One sentence that names the bucket, and what to do; None: it isn't the store that makes trouble."""
    scheme, _, path = place.partition("://")
    bucket, code, kind = f"{scheme}://{path.split('/')[0]}", code_of(error), type(error).__name__
    if code == "NoSuchBucket":
        return f"{bucket} does not exist. Make the bucket, or check its name and AWS_ENDPOINT_URL."
    if code in DENIED:
        return (
            f"{bucket} refuses the request ({code}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of "
            "the machine. It takes the right to get, put, list and delete."
        )
    if code in ELSEWHERE:
        return f"{bucket} is in another region ({code}): set AWS_DEFAULT_REGION to the bucket's."
    if "Credentials" in kind:
        return (
            f"There are no credentials for {bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a "
            "role gives them."
        )
    if "Connect" in kind or "Timeout" in kind or kind in ("ClientPayloadError", "IncompleteRead", "HTTPClientError"):
        return f"{bucket} can't be reached ({kind}): check AWS_ENDPOINT_URL, the network and its proxies."
    if code and code != "NoSuchKey" and not isinstance(error, FileNotFoundError):
        return f"{bucket} answers with an error again and again ({code}): wait until the store is well."
    return None


def code_of(error: BaseException | None) -> str:
    """The store's own word for it, which s3fs hides behind Python's errors; '': the error is none of a store's."""
    while error is not None:
        if isinstance(response := getattr(error, "response", None), dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""
