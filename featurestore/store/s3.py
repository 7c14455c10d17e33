"""What a store on S3 needs: its address checked, the environment's settings for each library, clear errors."""

from __future__ import annotations

import os
import re
from functools import lru_cache

from pyarrow import fs

from featurestore.errors import UsageError

# Amazon's rule, and the older one for names with capitals and underscores.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
_ENDPOINT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")
# What decides where a connection leads and as whom: with another value of one of these, another connection.
_SETTINGS = (*_ENDPOINT, *_REGION, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


def parse_uri(text: str) -> str:
    """Return ``s3://bucket/prefix`` without a trailing slash.

    Raises
    ------
    UsageError
        For a query, a fragment, credentials, a bucket's name that cannot be, or a prefix with empty parts.
    """
    bucket, _, key = text.removeprefix("s3://").partition("/")
    if "@" in bucket or ":" in bucket:
        # The text is not repeated: it may hold a secret.
        message = (
            "the store's URI holds credentials or a port; it would be written into logs and reports: give "
            "s3://bucket/prefix, and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        )
        raise UsageError(message)
    if "?" in text or "#" in text:
        message = (
            f"store {re.split('[?#]', text)[0]!r}: its URI goes on with a query or fragment; give s3://bucket/prefix, "
            "and set AWS_ENDPOINT_URL, AWS_REGION and the like in the environment"
        )
        raise UsageError(message)
    parts = key.rstrip("/").split("/") if key.rstrip("/") else []
    if not _BUCKET.fullmatch(bucket) or {"", ".", ".."} & set(parts):
        message = (
            f"store {text!r}: expected s3://bucket/prefix, the bucket's name at least three of letters, digits, '.', "
            "'_' and '-', and no part of the prefix empty, '.' or '..'"
        )
        raise UsageError(message)
    return "/".join([f"s3://{bucket}", *parts])


def storage_options() -> dict[str, str]:
    """Return the settings that deltalake cannot be left to find by itself; the rest it reads from ``AWS_*``."""
    # Said aloud, whatever the environment says: a commit is a conditional put and nothing less.
    options = {"conditional_put": "etag", "AWS_S3_ALLOW_UNSAFE_RENAME": "false"}
    if endpoint := _first(_ENDPOINT):
        options["AWS_ENDPOINT_URL"] = endpoint
        options["AWS_ALLOW_HTTP"] = str(endpoint.startswith("http://")).lower()
    if region := _region():
        options["AWS_REGION"] = region
    return options


def connect(root: str) -> fs.S3FileSystem:
    """Return Arrow's filesystem for the bucket of ``root``, asked once whether it answers.

    Arrow's, not s3fs: it reads and writes Parquet without Python in between, and is there with pyarrow.

    Raises
    ------
    UsageError
        If the bucket does not answer, is not there, or is closed to these credentials.
    """
    bucket = root.removeprefix("s3://").partition("/")[0]
    return _connect(bucket, tuple(os.environ.get(name, "") for name in _SETTINGS))


@lru_cache(maxsize=8)
def _connect(bucket: str, _settings: tuple[str, ...]) -> fs.S3FileSystem:
    # A quick look first: with the patience of the work itself a wrong address would take minutes to say so.
    _check(bucket, _open(connect_timeout=5, request_timeout=20, retry_strategy=fs.AwsStandardS3RetryStrategy(2)))
    return _open(connect_timeout=20, request_timeout=120, retry_strategy=fs.AwsStandardS3RetryStrategy(10))


def _open(**patience: object) -> fs.S3FileSystem:
    # Only what is set: Arrow looks for the rest where deltalake does, in the profile and the machine's role.
    where = {"endpoint_override": _first(_ENDPOINT), "region": _region(), "tls_ca_file_path": _first(["AWS_CA_BUNDLE"])}
    try:
        # Opened late, a small file is one put instead of an upload in parts: three requests.
        return fs.S3FileSystem(
            **{name: value for name, value in where.items() if value}, **patience, allow_delayed_open=True
        )
    except (ValueError, OSError) as error:
        message = f"S3 at {_address()} cannot be used: {_one_line(error)}; set AWS_ENDPOINT_URL to http(s)://host:port"
        raise UsageError(message) from error


def _check(bucket: str, system: fs.S3FileSystem) -> None:
    try:
        # Listing, not only asking for the bucket: a refusal to list comes with its reason.
        system.get_file_info(fs.FileSelector(f"{bucket}/-", allow_not_found=True))
        (info,) = system.get_file_info([bucket])
    except OSError as error:
        raise UsageError(_explain(bucket, _one_line(error))) from error
    if info.type == fs.FileType.NotFound:
        raise UsageError(_no_bucket(bucket))


def _explain(bucket: str, words: str) -> str:
    """Return what to do about an error of the S3 client, which names causes in its text only."""
    if re.search(r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist", words):
        return _no_bucket(bucket)
    if re.search(r"NETWORK_CONNECTION|curlCode|REQUEST_TIMEOUT", words):
        return (
            f"s3://{bucket}: nothing answers at {_address()} ({words}); set AWS_ENDPOINT_URL to the server's "
            "http(s)://host:port (unset for Amazon) and AWS_REGION to the bucket's region"
        )
    return (
        f"s3://{bucket}: {_address()} refuses the request ({words}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
        "(AWS_SESSION_TOKEN too where they are temporary) or AWS_PROFILE to ones that may list, read, write and delete "
        "there, and AWS_REGION to the bucket's region"
    )


def _no_bucket(bucket: str) -> str:
    return (
        f"s3://{bucket}: no such bucket at {_address()}; make it first (a store makes no buckets), or set "
        "AWS_ENDPOINT_URL and AWS_REGION to where it is"
    )


def _address() -> str:
    return _first(_ENDPOINT) or f"Amazon S3, region {_region() or 'of the profile'}"


def _region() -> str | None:
    # A server of one's own has no regions, but every signature names one.
    return _first(_REGION) or ("us-east-1" if _first(_ENDPOINT) else None)


def _first(names: tuple[str, ...] | list[str]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
