// The same measurement with libzmq: PUSH to PULL between two processes. Built by oneway.rs with cc, if libzmq is there.
// Its default marks of 1,000 messages: with 65,536, as ours have, it is slower.
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// Those of its documentation: zmq_curve(7).
static const char *server_public = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
static const char *server_secret = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6";
static const char *client_public = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
static const char *client_secret = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";
static int curve;

static void set(void *socket, int option, const void *value, size_t length) {
    int done = zmq_setsockopt(socket, option, value, length);
    assert(done == 0);
}

static void receive(void *context, size_t size, unsigned long count) {
    void *pull = zmq_socket(context, ZMQ_PULL);
    if (curve) {
        set(pull, ZMQ_CURVE_SERVER, &curve, sizeof curve);
        set(pull, ZMQ_CURVE_SECRETKEY, server_secret, 41);
    }
    int bound = zmq_bind(pull, "tcp://127.0.0.1:*");
    assert(bound == 0);
    char endpoint[128];
    size_t length = sizeof endpoint;
    zmq_getsockopt(pull, ZMQ_LAST_ENDPOINT, endpoint, &length);
    printf("%s\n", endpoint);
    fflush(stdout);
    zmq_msg_t message;
    zmq_msg_init(&message);
    double began = 0;
    for (unsigned long i = 0; i < count; i++) {
        int received = zmq_msg_recv(&message, pull, 0);
        assert(received == (int)size);
        if (i == 0) began = now();
    }
    printf("%.4f\n", count / (now() - began) / 1e6);
    zmq_msg_close(&message);
    zmq_close(pull);
}

static void transmit(void *context, const char *endpoint, size_t size, unsigned long count) {
    void *push = zmq_socket(context, ZMQ_PUSH);
    if (curve) {
        set(push, ZMQ_CURVE_SERVERKEY, server_public, 41);
        set(push, ZMQ_CURVE_PUBLICKEY, client_public, 41);
        set(push, ZMQ_CURVE_SECRETKEY, client_secret, 41);
    }
    int connected = zmq_connect(push, endpoint);
    assert(connected == 0);
    char *body = malloc(size);
    memset(body, 7, size);
    for (unsigned long i = 0; i < count; i++) {
        int sent = zmq_send(push, body, size, 0);
        assert(sent == (int)size);
    }
    free(body);
    zmq_close(push); // lingers until all is written
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "version")) {
        int major, minor, patch;
        zmq_version(&major, &minor, &patch);
        printf("%d.%d.%d\n", major, minor, patch);
        return 0;
    }
    if (argc < 4) return 2;
    curve = !strcmp(argv[argc - 1], "--curve");
    void *context = zmq_ctx_new();
    if (!strcmp(argv[1], "receive")) receive(context, atol(argv[2]), atol(argv[3]));
    else transmit(context, argv[1], atol(argv[2]), atol(argv[3]));
    zmq_ctx_term(context);
    return 0;
}
