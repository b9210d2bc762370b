// The victims of hostile.rs with libzmq, all of it at its defaults. Built by hostile.rs with cc, if libzmq is there.
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

static void say_endpoint(void *socket) {
    char endpoint[128];
    size_t length = sizeof endpoint;
    zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &length);
    printf("%s\n", endpoint);
    fflush(stdout);
}

static void *bound(void *context, int type, const char *endpoint) {
    void *socket = zmq_socket(context, type);
    // The port of a process that was killed may need a moment.
    for (int tries = 0; zmq_bind(socket, endpoint) != 0; tries++) {
        assert(tries < 500);
        usleep(10000);
    }
    say_endpoint(socket);
    return socket;
}

// Sends back what comes. A line "ID ENDPOINT" on standard input makes it dial a peer that it wants to know by that ID.
static void router(void *context) {
    void *socket = bound(context, ZMQ_ROUTER, "tcp://127.0.0.1:*");
    zmq_pollitem_t items[] = {{socket, 0, ZMQ_POLLIN, 0}, {NULL, 0, ZMQ_POLLIN, 0}};
    for (;;) {
        zmq_poll(items, 2, -1);
        if (items[1].revents) {
            char line[256], id[128], endpoint[128];
            if (!fgets(line, sizeof line, stdin)) return;
            if (sscanf(line, "%127s %127s", id, endpoint) == 2) {
                zmq_setsockopt(socket, ZMQ_CONNECT_ROUTING_ID, id, strlen(id));
                zmq_connect(socket, endpoint);
            }
        }
        if (items[0].revents) {
            int more;
            do {
                zmq_msg_t frame;
                zmq_msg_init(&frame);
                zmq_msg_recv(&frame, socket, 0);
                more = zmq_msg_more(&frame);
                zmq_msg_send(&frame, socket, more ? ZMQ_SNDMORE : 0);
            } while (more);
        }
    }
}

static void publish(void *context, const char *endpoint, int topics) {
    void *socket = bound(context, ZMQ_PUB, endpoint);
    for (;;) {
        for (int topic = 0; topic < topics; topic++) {
            char text[32];
            int length = snprintf(text, sizeof text, "topic.%05d", topic);
            zmq_send(socket, text, length, 0);
            if (topic % 100 == 99) {
                // The end of standard input is that of whoever started this.
                struct pollfd input = {STDIN_FILENO, POLLIN, 0};
                if (poll(&input, 1, 1) > 0) return;
            }
        }
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// For each line on standard input, says how many different topics come within that many milliseconds.
static void subscribe(void *context, const char *endpoint, int topics) {
    void *socket = zmq_socket(context, ZMQ_SUB);
    zmq_connect(socket, endpoint);
    // Connected, slowly, and with a look at its events now and then, which is when it learns that a queue was emptied:
    // else all that are more than its high-water mark are lost the first time already.
    usleep(300000);
    for (int topic = 0; topic < topics; topic++) {
        char text[32];
        int length = snprintf(text, sizeof text, "topic.%05d", topic);
        zmq_setsockopt(socket, ZMQ_SUBSCRIBE, text, length);
        if (topic % 100 == 99) {
            int events;
            size_t size = sizeof events;
            usleep(5000);
            zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size);
        }
    }
    int timeout = 50;
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &timeout, sizeof timeout);
    char line[16], *seen = malloc(topics);
    while (fgets(line, sizeof line, stdin)) {
        memset(seen, 0, topics);
        int different = 0;
        for (double until = now() + atoi(line) / 1e3; now() < until;) {
            char text[32] = {0};
            if (zmq_recv(socket, text, sizeof text - 1, 0) < 0) continue;
            int topic = atoi(text + strlen("topic."));
            if (topic >= 0 && topic < topics && !seen[topic]) {
                seen[topic] = 1;
                different++;
            }
        }
        printf("%d\n", different);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "version")) {
        int major, minor, patch;
        zmq_version(&major, &minor, &patch);
        printf("%d.%d.%d\n", major, minor, patch);
        return 0;
    }
    void *context = zmq_ctx_new();
    if (argc == 2 && !strcmp(argv[1], "router")) router(context);
    else if (argc == 4 && !strcmp(argv[1], "pub")) publish(context, argv[2], atoi(argv[3]));
    else if (argc == 4 && !strcmp(argv[1], "sub")) subscribe(context, argv[2], atoi(argv[3]));
    else return 2;
    return 0;
}
