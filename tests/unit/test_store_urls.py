"""What a store's URL may say, and how it is refused."""

import pytest

from service.store import clients
from service.store.clients.url import parsed

ADDRESSES = {
    "redis://": "localhost:6379",
    "redis://:hush@host": "host:6379",
    "redis://ada:hush@host:7/3?client_name=ranker": "host:7",
    "redis://[::1]:7/": "[::1]:7",
    "unix://ada:hush@/run/a%20b?db=2": "/run/a b",
    "rediss://ada:a%2Fb%40c%3Fd@host:7/0?ssl_cert_reqs=none&ssl_check_hostname=No": "host:7",
    "redis+sentinel://a,b:7,[::1]/mymaster/3?sentinel_password=hush": (
        "mymaster by its sentinels a:26379,b:7,[::1]:26379"
    ),
    "rediss+cluster://ada:hush@a:7000,b": "a:7000,b:6379",
}


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_says_where_and_no_secret(url):
    assert clients.address(url) == ADDRESSES[url]
    clients.check(url)


def test_user_and_password_are_decoded_and_may_be_options_too():
    for url in (
        "redis://a%40b:c%2Fd@host",
        "redis://host?username=a%40b&password=c%2Fd",
        "redis://a%40b@host?password=c/d",
    ):
        assert parsed(url).connection == {"username": "a@b", "password": "c/d"}


NO_FORM = "redis://, rediss:// or unix://"
REFUSED = {
    "": NO_FORM,
    "localhost:6379": NO_FORM,
    "http://host": NO_FORM,
    "redis-cluster://host": NO_FORM,
    "redis://user:hu/sh@host": NO_FORM,
    "redis://user:hu?sh@host": NO_FORM,
    "redis://user:hu#sh@host": NO_FORM,
    "redis://:12/hush@host": NO_FORM,
    "redis://host:99999": NO_FORM,
    "redis://host:0": NO_FORM,
    "redis://host:x": NO_FORM,
    "redis://a,b": "several hosts",
    "unix://": "absolute",
    "unix://tmp/socket": "absolute",
    "redis://host/x": "a number is allowed",
    "redis://host/0/1": "a number is allowed",
    "redis://host/1?db=2": "two databases",
    "redis://host?db=x": "?db=x: a number from 0 on is allowed",
    "redis://host?db=-1": "?db=-1: a number",
    "redis://host?db=1.5": "?db=1.5: a number",
    "redis://host?db=": "?db=: a number",
    "redis://host?db=1&db=1": "?db twice",
    "redis://a@host?username=b": "two usernames",
    "redis://host?foo=bar": "?foo: of a store of this kind are allowed db, username, password",
    "redis://host?Db=1": "?Db: ",
    "redis://host?foo": "?foo: ",
    "redis://host?decode_responses=true": "?decode_responses: leave it out, the service reads bytes",
    "redis://host?decode_responses=false": "?decode_responses: leave it out",
    "redis://host?encoding=latin-1": "?encoding: leave it out",
    "redis://host?protocol=3": "?protocol: leave it out",
    "redis://host?protocol=2": "?protocol: leave it out",
    "redis://host?legacy_responses=no": "?legacy_responses: leave it out",
    "redis://host?retry_on_timeout=yes": "?retry_on_timeout: leave it out",
    "redis://host?socket_timeout=1": "?socket_timeout: leave it out, RANKER_HISTORY_TIMEOUT_MS",
    "redis://host?socket_connect_timeout=1": "RANKER_HISTORY_TIMEOUT_MS",
    "redis://host?timeout=1": "RANKER_HISTORY_TIMEOUT_MS",
    "redis://host?max_connections=9": "RANKER_HISTORY_CONNECTIONS",
    "redis://host?socket_keepalive=flase": "?socket_keepalive=flase: true or false is allowed",
    "redis://host?socket_read_size=0": "?socket_read_size=0: a number from 1 on",
    "redis://host?health_check_interval=1e3": "?health_check_interval=1e3: a number",
    "redis://host?client_name=a b": "?client_name=a b: a word",
    "redis://host?password=": "?password: a text",
    "redis://host?connection_class=x": "?connection_class: ",
    "redis://host?host=other": "?host: ",
    "redis://host?ssl_ca_certs=ca.pem": "?ssl_ca_certs, which needs rediss",
    "redis://host?ssl=true": "?ssl: ",
    "redis://host?sentinel_password=hush": "?sentinel_password: ",
    "unix:///socket?socket_keepalive=yes": "?socket_keepalive: ",
    "rediss://host?ssl_check_hostname=maybe": "?ssl_check_hostname=maybe: true or false",
    "rediss://host?ssl_cert_reqs=CERT_NONE": "none, optional or required is allowed",
    "rediss://host?ssl_min_version=1.2": "771 (TLS 1.2)",
    "rediss://host?ssl_include_verify_flags=X": "ssl.VerifyFlags",
    "rediss://host?ssl_ca_certs=/no/such/file": "ssl_ca_certs cannot be set up: No such file",
    "rediss://host?ssl_ca_data=hush": "ssl_ca_data cannot be set up",
    "rediss://host?ssl_certfile=/no/such/file": "ssl_certfile cannot be set up: No such file",
    "rediss://host?ssl_ciphers=NONE-SUCH": "ssl_ciphers cannot be set up",
    "redis+sentinel://host": "lacks the master's name",
    "redis+sentinel:///mymaster": "the hosts are missing",
    "redis+sentinel://a,,b/mymaster": NO_FORM,
    "redis+sentinel://a/mymaster/x": "a number is allowed",
    "redis+cluster://": "the hosts are missing",
    "redis+cluster://a,b/1": "a cluster has but 0",
    "redis+cluster://a,b?db=1": "?db: of a store of this kind",
    "redis+cluster://a,b?read_from_replicas=true": "?read_from_replicas: ",
}


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_cannot_be_used_is_refused_in_one_line_without_a_secret(url):
    with pytest.raises(ValueError) as refused:
        clients.check(url)
    message = str(refused.value)
    assert REFUSED[url] in message
    assert "\n" not in message and "hu" not in message
