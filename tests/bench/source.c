/* What the bench reads from: a WebSocket System server, and an Ollama beside it, whose answers are prepared bytes.
 *
 *     cc -O2 -pthread [-DWITH_TLS -lssl -lcrypto] source.c -o source; ./source [certificate.pem]
 *
 * It prints its plain port and its TLS port (0 for none), listens on loopback, lets anybody in, and ends when its
 * standard input does. A request's model says what to answer:
 *
 *     tokens:N  N stream_token frames, 600 and more in one write; those of several generations take turns one by one
 *     idle:N    N frames, one every 2 ms, whose token is the time of sending (CLOCK_MONOTONIC, ns)
 *     big:N     one frame whose token has N bytes
 *     (other)   stream_end at once, when the whole request has been received
 *
 * POST /api/generate answers tokens:N as Ollama does: NDJSON, each line a chunk of its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
static SSL_CTX *tls;
#endif

#define BLOCK_FRAMES 600
#define MAX_GENERATIONS 64
#define MAX_BIG (32 << 20)
static char *filler; /* MAX_BIG bytes, touched before anybody asks for them */

typedef struct { char id[64]; long left; } Generation;
typedef struct {
    int fd;
    void *ssl;
    unsigned char *in;
    size_t start, end, room;
    Generation running[MAX_GENERATIONS];
    int count;
    char *block; /* BLOCK_FRAMES frames or more: rows of one frame for each running generation */
    size_t row;
    long rows;
} Line;

/* --- bytes in and out; each returns 0 when the line has ended ------------------------------------------------------ */

static int put(Line *l, const void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n;
#ifdef WITH_TLS
        if (l->ssl) n = SSL_write(l->ssl, (const char *)data + done, size - done > 1 << 30 ? 1 << 30 : (int)(size - done));
        else
#endif
            n = send(l->fd, (const char *)data + done, size - done, MSG_NOSIGNAL);
        if (n <= 0) return 0;
        done += n;
    }
    return 1;
}

static int fill(Line *l) {
    if (l->start == l->end) l->start = l->end = 0;
    if (l->room - l->end < 65536) {
        memmove(l->in, l->in + l->start, l->end - l->start);
        l->end -= l->start, l->start = 0;
        if (l->room - l->end < 65536 && !(l->in = realloc(l->in, l->room = l->room * 2 + 131072))) abort();
    }
    ssize_t n;
#ifdef WITH_TLS
    if (l->ssl) n = SSL_read(l->ssl, l->in + l->end, (int)(l->room - l->end));
    else
#endif
        n = recv(l->fd, l->in + l->end, l->room - l->end, 0);
    if (n <= 0) return 0;
    l->end += n;
    return 1;
}

static int has_input(Line *l) {
    struct pollfd p = {l->fd, POLLIN, 0};
#ifdef WITH_TLS
    if (l->ssl && SSL_pending(l->ssl)) return 1;
#endif
    return l->end > l->start || poll(&p, 1, 0) > 0;
}

static size_t header(unsigned char *to, size_t size) {
    to[0] = 0x81;
    if (size < 126) return to[1] = size, 2;
    if (size < 65536) return to[1] = 126, to[2] = size >> 8, to[3] = size & 255, 4;
    to[1] = 127;
    for (int i = 0; i < 8; i++) to[2 + i] = (uint64_t)size >> (56 - 8 * i);
    return 10;
}

static size_t frame(char *to, const char *text) {
    size_t size = strnlen(text, 1024), head = header((unsigned char *)to, size);
    memcpy(to + head, text, size);
    return head + size;
}

static int say(Line *l, const char *text) {
    char out[1040];
    return put(l, out, frame(out, text));
}

/* --- the upgrade: RFC 6455 section 4.2.2 wants SHA-1 and base64 ---------------------------------------------------- */

static uint32_t turn(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1(const char *text, unsigned char digest[20]) {
    unsigned char data[192] = {0};
    size_t size = strlen(text), blocks = (size + 8) / 64 + 1;
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    memcpy(data, text, size);
    data[size] = 0x80;
    for (int i = 0; i < 4; i++) data[blocks * 64 - 1 - i] = size * 8 >> (8 * i);
    for (unsigned char *p = data; blocks--; p += 64) {
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            w[i] = i < 16 ? (uint32_t)p[i * 4] << 24 | p[i * 4 + 1] << 16 | p[i * 4 + 2] << 8 | p[i * 4 + 3]
                          : turn(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
            static const uint32_t k[4] = {0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};
            uint32_t t = turn(a, 5) + f + e + k[i / 20] + w[i];
            e = d, d = c, c = turn(b, 30), b = a, a = t;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = h[i / 4] >> (24 - 8 * (i % 4));
}

static int upgrade(Line *l, const char *key) {
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[128], accept[29] = {0}, out[256];
    unsigned char d[21] = {0};
    snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(text, d);
    for (int i = 0; i < 7; i++) {
        uint32_t v = d[i * 3] << 16 | d[i * 3 + 1] << 8 | d[i * 3 + 2];
        for (int j = 0; j < 4; j++) accept[i * 4 + j] = set[v >> (18 - 6 * j) & 63];
    }
    accept[27] = '=';
    int n = snprintf(out, sizeof out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    return put(l, out, n) && say(l, "{\"type\":\"challenge\",\"challenge\":"
               "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\"timestamp\":1790000000000}");
}

/* --- generations --------------------------------------------------------------------------------------------------- */

static void build_block(Line *l) {
    char text[256];
    size_t size = 0;
    l->rows = l->count ? (BLOCK_FRAMES + l->count - 1) / l->count : 0;
    for (long row = 0; row < l->rows; row++) {
        for (int i = 0; i < l->count; i++) {
            snprintf(text, sizeof text, "{\"id\":\"%s\",\"type\":\"stream_token\",\"token\":\" %05ld\","
                     "\"timestamp\":1790000000000}", l->running[i].id, row);
            size += frame(l->block + size, text);
        }
        if (!row) l->row = size;
    }
}

static int end(Line *l, const char *id, long tokens) {
    char text[256];
    snprintf(text, sizeof text, "{\"id\":\"%s\",\"type\":\"stream_end\",\"totalTokens\":%ld,\"elapsedTime\":18,"
             "\"timestamp\":1790000000000}", id, tokens);
    return say(l, text);
}

static int pump(Line *l) {
    long rows = l->rows;
    int before = l->count;
    for (int i = 0; i < l->count; i++) if (l->running[i].left < rows) rows = l->running[i].left;
    if (!put(l, l->block, rows * l->row)) return 0;
    for (int i = l->count - 1; i >= 0; i--) {
        if ((l->running[i].left -= rows) > 0) continue;
        if (!end(l, l->running[i].id, 0)) return 0;
        l->running[i] = l->running[--l->count];
    }
    if (l->count != before) build_block(l);
    return 1;
}

static int idle(Line *l, const char *id, long tokens) {
    char text[256];
    struct timespec now, pause = {0, 2000000};
    for (long i = 0; i < tokens; i++) {
        nanosleep(&pause, 0);
        clock_gettime(CLOCK_MONOTONIC, &now);
        snprintf(text, sizeof text, "{\"id\":\"%s\",\"type\":\"stream_token\",\"token\":\"%lld\",\"timestamp\":1}", id,
                 now.tv_sec * 1000000000LL + now.tv_nsec);
        if (!say(l, text)) return 0;
    }
    return end(l, id, tokens);
}

static int big(Line *l, const char *id, long size) {
    char text[256], out[300];
    if (size > MAX_BIG) size = MAX_BIG;
    int n = snprintf(text, sizeof text, "{\"id\":\"%s\",\"type\":\"stream_token\",\"token\":\"", id);
    size_t head = header((unsigned char *)out, n + size + 2);
    memcpy(out + head, text, n);
    return put(l, out, head + n) && put(l, filler, size) && put(l, "\"}", 2) && end(l, id, 1);
}

/* --- requests ------------------------------------------------------------------------------------------------------ */

static void field(const char *text, const char *name, char *to, size_t room) {
    const char *p = strstr(text, name);
    size_t n = 0;
    if (p) for (p += strlen(name); *p == ' ' || *p == ':' || *p == '"'; p++) if (*p == '"' && p++) break;
    if (p) for (; p[n] && p[n] != '"' && n + 1 < room; n++) to[n] = p[n];
    to[n] = 0;
}

static int message(Line *l, const char *head, const char *tail, size_t size) {
    char type[32], id[64], model[64], out[1024];
    field(head, "\"type\"", type, sizeof type);
    field(head, "\"id\"", id, sizeof id);
    field(tail, "\"model\"", model, sizeof model);
    long number = strchr(model, ':') ? atol(strchr(model, ':') + 1) : 0;
    if (!strcmp(type, "authenticate"))
        return say(l, "{\"type\":\"auth_result\",\"success\":true,\"timestamp\":1790000000000}");
    if (!strcmp(type, "ping"))
        return snprintf(out, sizeof out, "{\"id\":\"%s\",\"type\":\"pong\",\"timestamp\":1}", id), say(l, out);
    if (!strcmp(type, "models"))
        return snprintf(out, sizeof out, "{\"id\":\"%s\",\"type\":\"models_result\",\"models\":[{\"name\":\"llama2:latest\","
                        "\"size\":3826793677,\"digest\":\"78e26419b446\",\"modified_at\":\"2026-11-22T18:33:42Z\"}],"
                        "\"timestamp\":1790000000000}", id), say(l, out);
    if (strcmp(type, "generate")) return 1;
    snprintf(out, sizeof out, "{\"id\":\"%s\",\"type\":\"stream_start\",\"model\":\"%s\",\"timestamp\":1790000000000}", id,
             model);
    if (!say(l, out)) return 0;
    if (!strncmp(model, "idle:", 5)) return idle(l, id, number);
    if (!strncmp(model, "big:", 4)) return big(l, id, number);
    if (strncmp(model, "tokens:", 7) || number <= 0 || l->count == MAX_GENERATIONS) return end(l, id, (long)size);
    strcpy(l->running[l->count].id, id);
    l->running[l->count++].left = number;
    build_block(l);
    return 1;
}

/* Only both ends of a message are unmasked: the rest may be a prompt of 16 MiB. */
static void unmask(const unsigned char *mask, const unsigned char *p, size_t from, size_t to, char *out) {
    for (size_t i = from; i < to; i++) out[i - from] = p[i] ^ mask[i & 3];
    out[to - from] = 0;
}

static int read_frame(Line *l) {
    char head[257], tail[513];
    size_t need = 6, size = 0;
    for (;;) {
        unsigned char *p = l->in + l->start;
        size_t have = l->end - l->start;
        if (have >= 2) {
            size_t extra = (p[1] & 127) == 126 ? 2 : (p[1] & 127) == 127 ? 8 : 0;
            if (have >= 2 + extra) {
                size = p[1] & 127;
                if (extra) for (size_t i = size = 0; i < extra; i++) size = size << 8 | p[2 + i];
                need = 6 + extra + size;
                if (have >= need) {
                    unsigned char *mask = p + 2 + extra;
                    l->start += need;
                    if ((p[0] & 15) == 8) return 0;
                    if ((p[0] & 15) != 1) return 1;
                    unmask(mask, mask + 4, 0, size < 256 ? size : 256, head);
                    unmask(mask, mask + 4, size < 512 ? 0 : size - 512, size, tail);
                    return message(l, head, tail, size);
                }
            }
        }
        if (!fill(l)) return 0;
    }
}

static int ollama(Line *l, const char *body) {
    char model[64], chunk[256], line[160];
    static const char *start = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    field(body, "\"model\"", model, sizeof model);
    long left = strchr(model, ':') ? atol(strchr(model, ':') + 1) : 0;
    size_t size = 0, one = 0;
    for (int i = 0; i < BLOCK_FRAMES; i++, one = one ? one : size) {
        int n = snprintf(line, sizeof line, "{\"model\":\"llama2\",\"created_at\":\"2026-11-22T18:33:42.377127Z\","
                         "\"response\":\" %05d\",\"done\":false}\n", i);
        size += snprintf(l->block + size, sizeof chunk, "%x\r\n%s\r\n", n, line);
    }
    if (!put(l, start, strlen(start))) return 0;
    for (; left > 0; left -= BLOCK_FRAMES) if (!put(l, l->block, one * (left < BLOCK_FRAMES ? left : BLOCK_FRAMES))) return 0;
    int n = snprintf(line, sizeof line, "{\"model\":\"llama2\",\"created_at\":\"2026-11-22T18:33:42.377127Z\","
                     "\"response\":\"\",\"done\":true,\"done_reason\":\"stop\"}\n");
    return put(l, chunk, snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n0\r\n\r\n", n, line));
}

static int http(Line *l, int *is_websocket) {
    for (;;) {
        char *p = (char *)l->in + l->start, *stop = l->end > l->start ? memmem(p, l->end - l->start, "\r\n\r\n", 4) : 0;
        if (stop) {
            *stop = 0;
            char *key = strcasestr(p, "Sec-WebSocket-Key: "), *size = strcasestr(p, "Content-Length: ");
            size_t body = size ? strtoul(size + 16, 0, 10) : 0;
            if (key) return *is_websocket = 1, l->start = (unsigned char *)stop + 4 - l->in, upgrade(l, key + 19);
            if ((unsigned char *)stop + 4 + body <= l->in + l->end) {
                char text[4096];
                snprintf(text, sizeof text, "%.*s", (int)body, stop + 4);
                return l->start = (unsigned char *)stop + 4 + body - l->in, ollama(l, text);
            }
            *stop = '\r';
        }
        if (!fill(l)) return 0;
    }
}

static void *serve(void *argument) {
    Line *l = argument;
    int on = 1, is_websocket = 0, is_open = 1;
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
#ifdef WITH_TLS
    if (l->ssl) SSL_set_fd(l->ssl, l->fd), is_open = SSL_accept(l->ssl) == 1;
#endif
    l->block = malloc((BLOCK_FRAMES + MAX_GENERATIONS) * 256);
    while (is_open) {
        if (!is_websocket) is_open = http(l, &is_websocket);
        else if (l->count && !has_input(l)) is_open = pump(l);
        else is_open = read_frame(l);
    }
#ifdef WITH_TLS
    if (l->ssl) SSL_free(l->ssl);
#endif
    close(l->fd);
    free(l->block), free(l->in), free(l);
    return 0;
}

/* --- listening ----------------------------------------------------------------------------------------------------- */

typedef struct { int fd, is_tls; } Door;

static void *welcome(void *argument) {
    Door *door = argument;
    pthread_t thread;
    for (int fd; (fd = accept(door->fd, 0, 0)) >= 0;) {
        Line *l = calloc(1, sizeof *l);
        l->fd = fd;
#ifdef WITH_TLS
        if (door->is_tls) l->ssl = SSL_new(tls);
#endif
        if (!pthread_create(&thread, 0, serve, l)) pthread_detach(thread);
    }
    return 0;
}

static int open_door(int is_tls) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    pthread_t thread;
    Door *door = malloc(sizeof *door);
    *door = (Door){socket(AF_INET, SOCK_STREAM, 0), is_tls};
    if (bind(door->fd, (struct sockaddr *)&address, size) || listen(door->fd, 256)) exit(1);
    getsockname(door->fd, (struct sockaddr *)&address, &size);
    pthread_create(&thread, 0, welcome, door);
    return ntohs(address.sin_port);
}

int main(int count, char **arguments) {
    int secure = 0;
    signal(SIGPIPE, SIG_IGN);
    memset(filler = malloc(MAX_BIG), 'x', MAX_BIG);
#ifdef WITH_TLS
    if (count > 1) {
        tls = SSL_CTX_new(TLS_server_method());
        if (SSL_CTX_use_certificate_file(tls, arguments[1], SSL_FILETYPE_PEM) != 1
            || SSL_CTX_use_PrivateKey_file(tls, arguments[1], SSL_FILETYPE_PEM) != 1) return 1;
        secure = open_door(1);
    }
#endif
    (void)count, (void)arguments;
    printf("%d %d\n", open_door(0), secure);
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
