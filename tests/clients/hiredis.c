/* hiredis: every feature once, then rounds of work over a failover (see tests/clients.rs). */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/time.h>
#include <unistd.h>

static int port, rounds, after, messages_after;
static char features[256], errors[64 * 1024];

/* Appends ["what","text"]. */
static void complain(const char *what, const char *text) {
    size_t used = strlen(errors);
    if (used > sizeof errors - 512) return;
    used += (size_t)snprintf(errors + used, 64, "%s[\"%s\",\"", used ? "," : "", what);
    for (; *text && used < sizeof errors - 300; text++)
        if (*text >= ' ' && *text != '"' && *text != '\\') errors[used++] = *text;
    strcpy(errors + used, "\"]");
}

static void feature(const char *name, int worked) {
    if (!worked) return complain(name, "it did not work");
    snprintf(features + strlen(features), 32, "%s\"%s\"", *features ? "," : "", name);
}

static redisContext *client(void) {
    redisContext *c = redisConnect("127.0.0.1", port);
    if (!c || c->err) {
        fprintf(stderr, "no connection: %s\n", c ? c->errstr : "no memory");
        exit(1);
    }
    return c;
}

/* Checks and frees a reply; whether it is of this type. */
static int check(const char *what, redisContext *c, redisReply *reply, int type) {
    if (!reply) {
        complain(what, c->errstr);
        return 0;
    }
    int ok = reply->type == type;
    if (reply->type == REDIS_REPLY_ERROR) complain(what, reply->str);
    freeReplyObject(reply);
    return ok;
}

#define ask(what, type, ...) check(what, c, redisCommand(c, __VA_ARGS__), type)

static int pipeline(redisContext *c, int count) {
    redisReply *reply;
    int good = 0;
    for (int n = 0; n < count; n++) redisAppendCommand(c, "SET p%d %d", n, n), redisAppendCommand(c, "GET p%d", n);
    for (int n = 0; n < 2 * count; n++) {
        if (redisGetReply(c, (void **)&reply) != REDIS_OK) {
            complain("pipeline", c->errstr);
            return 0;
        }
        good += n % 2 ? reply->type == REDIS_REPLY_STRING && atoi(reply->str) == n / 2 : reply->type == REDIS_REPLY_STATUS;
        if (reply->type == REDIS_REPLY_ERROR) complain("pipeline", reply->str);
        freeReplyObject(reply);
    }
    return good == 2 * count;
}

static int transaction(redisContext *c, redisContext *other) {
    int ok = ask("watch", REDIS_REPLY_STATUS, "WATCH t");
    ok &= check("set", other, redisCommand(other, "SET t 7"), REDIS_REPLY_STATUS);
    ok &= ask("multi", REDIS_REPLY_STATUS, "MULTI") & ask("queued", REDIS_REPLY_STATUS, "INCR t");
    ok &= ask("exec", REDIS_REPLY_NIL, "EXEC");
    ok &= ask("multi", REDIS_REPLY_STATUS, "MULTI") & ask("queued", REDIS_REPLY_STATUS, "INCR t");
    return ok & ask("exec", REDIS_REPLY_ARRAY, "EXEC");
}

static int scripts(redisContext *c) {
    static const char sha[] = "ffffffffffffffffffffffffffffffffffffffff";
    redisReply *reply = redisCommand(c, "EVALSHA %s 0", sha);
    int ok = reply && reply->type == REDIS_REPLY_ERROR && !strncmp(reply->str, "NOSCRIPT", 8);
    freeReplyObject(reply);
    return ok & ask("eval", REDIS_REPLY_INTEGER, "EVAL %s 0", "return 7");
}

static int large(redisContext *c, size_t size) {
    char *value = malloc(size);
    memset(value, 'x', size);
    int ok = ask("large", REDIS_REPLY_STATUS, "SET large %b", value, size);
    redisReply *reply = redisCommand(c, "GET large");
    ok &= reply && reply->type == REDIS_REPLY_STRING && reply->len == size;
    free(value);
    return ok & check("large", c, reply, REDIS_REPLY_STRING);
}

/* Takes what was published, without waiting. */
static void listen_for_news(redisContext *s, int stopping) {
    redisReply *reply;
    for (;;) {
        if (redisGetReplyFromReader(s, (void **)&reply) != REDIS_OK) return complain("listen", s->errstr);
        if (reply) {
            messages_after += stopping;
            freeReplyObject(reply);
            continue;
        }
        struct timeval none = {0, 0};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(s->fd, &set);
        if (select(s->fd + 1, &set, NULL, NULL, &none) <= 0) return;
        if (redisBufferRead(s) != REDIS_OK) return complain("listen", s->errstr);
    }
}

static int asked_to_stop(void) {
    struct timeval none = {0, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(0, &set);
    return select(1, &set, NULL, NULL, &none) > 0;
}

int main(int argc, char **argv) {
    port = atoi(argv[argc - 1]);
    redisContext *c = client(), *other = client(), *s = client();
    feature("handshake", ask("setname", REDIS_REPLY_STATUS, "CLIENT SETNAME me") & ask("ping", REDIS_REPLY_STATUS, "PING"));
    feature("pipeline", pipeline(c, 1000));
    feature("transaction", transaction(c, other));
    feature("pubsub", check("subscribe", s, redisCommand(s, "SUBSCRIBE news"), REDIS_REPLY_ARRAY));
    feature("blocking", ask("blpop", REDIS_REPLY_NIL, "BLPOP empty 0.1"));
    feature("scripts", scripts(c));
    feature("large", large(c, 3000000));
    for (int stopping = 0; after < 20; rounds++) {
        stopping = stopping || asked_to_stop();
        ask("set", REDIS_REPLY_STATUS, "SET key value-%d", rounds);
        ask("get", REDIS_REPLY_STRING, "GET key");
        ask("incr", REDIS_REPLY_INTEGER, "INCR n");
        pipeline(c, 10);
        if (ask("multi", REDIS_REPLY_STATUS, "MULTI")) {
            ask("queued", REDIS_REPLY_STATUS, "INCR m");
            ask("exec", REDIS_REPLY_ARRAY, "EXEC");
        }
        ask("script", REDIS_REPLY_INTEGER, "EVAL %s 0", "return 7");
        ask("push", REDIS_REPLY_INTEGER, "RPUSH q %d", rounds);
        ask("blpop", REDIS_REPLY_ARRAY, "BLPOP q 1");
        ask("publish", REDIS_REPLY_INTEGER, "PUBLISH news %d", rounds);
        if (rounds % 20 == 0) large(c, 1000000);
        listen_for_news(s, stopping);
        after += stopping;
        if (rounds == 20) puts("ready"), fflush(stdout);
    }
    printf("{\"client\":\"hiredis %d.%d.%d\",\"features\":[%s],\"rounds\":%d,\"after\":%d,\"messages_after\":%d,\"errors\":[%s]}\n",
           HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH, features, rounds, after, messages_after, errors);
    return 0;
}
