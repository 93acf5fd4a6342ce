// SPDX-License-Identifier: Apache-2.0
// Runs in the guest, statically linked: loads a disk and says whether it kept its word.
//
//     verifier DISK THREADS BLOCKS STUCK_S [hwrng]
//
// Each thread owns BLOCKS blocks of 4 KiB and has one request out at a time, past the page cache.
// What it writes names the block and counts up, its generation; what it reads must be the last
// generation that was acknowledged. With hwrng another thread reads /dev/hwrng all the time. With
// "-" in place of the disk there is only that.
//
// Each second a line goes to the standard output, as NAME=NUMBER words:
//     OUTRIGGER-TICK second=.. ops=.. reads=.. bad=.. eio=.. stuck=.. longest_ms=..
//                    rng_bytes=.. rng_errors=.. rng_longest_ms=..
// All are sums since the start, but for longest_ms and rng_longest_ms: the longest time that a
// request took which ended in this second, or is out in it. A request counts as stuck once it takes
// longer than STUCK_S seconds. A line "stop" on the standard input ends it: then every request must
// come back, every block is read once more, and OUTRIGGER-VERDICT tells the same numbers.
#define _GNU_SOURCE  // O_DIRECT
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { kBlockBytes = 4096, kThreadsMax = 64, kBlocksMax = 4096, kBlockWords = kBlockBytes / 8 };

// Words 0 to 3 of a block; the rest follows from them. The host's log of writes reads the first
// three (shuffled_image.cc).
static const uint64_t kMagic = 0x315246592d47524fULL;  // "ORG-YFR1"

enum { kWordMagic = 0, kWordBlock = 1, kWordGeneration = 2, kWordChecksum = 3, kWordPattern = 4 };

struct Worker {
    pthread_t thread;
    unsigned number;
    uint64_t random;
    uint64_t* buffer;
    uint64_t* acknowledged;       // generation of each block; 0: never written
    uint64_t* attempted;          // above acknowledged where a write failed: either may be there
    _Atomic uint64_t started_ns;  // of the request that is out; 0: none
    _Atomic uint64_t longest_ns;  // of those that ended, since the ticker last asked
    bool counted_stuck;           // the ticker's: the request that is out
    uint64_t stuck_started_ns;    // the ticker's: which one that was
};

static int disk = -1;
static unsigned thread_count;
static uint64_t blocks_each;
static uint64_t stuck_ns;
static struct Worker workers[kThreadsMax];
static struct Worker rng_worker;
static atomic_bool stopping;
static _Atomic unsigned running;
static _Atomic uint64_t ops, reads, bad, eio, stuck, rng_bytes, rng_errors;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static void complain(const char* format,
                     unsigned long long a,
                     unsigned long long b,
                     unsigned long long c) {
    static _Atomic unsigned said;
    if (atomic_fetch_add(&said, 1) < 20) {
        printf("OUTRIGGER-COMPLAINT ");
        printf(format, a, b, c);
        printf("\n");
        fflush(stdout);
    }
}

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static uint64_t checksum_of(const uint64_t* words) {
    uint64_t sum = words[kWordMagic] + words[kWordBlock] * 3 + words[kWordGeneration] * 5;
    for (unsigned i = kWordPattern; i < kBlockWords; i++) {
        sum = sum * 0x100000001b3ULL + words[i];
    }
    return sum;
}

static void fill(uint64_t* words, uint64_t block, uint64_t generation) {
    words[kWordMagic] = kMagic;
    words[kWordBlock] = block;
    words[kWordGeneration] = generation;
    const uint64_t seed = mix(block * 0x10001 + generation);
    for (unsigned i = kWordPattern; i < kBlockWords; i++) {
        words[i] = seed + i * 0x9e3779b97f4a7c15ULL;
    }
    words[kWordChecksum] = checksum_of(words);
}

static uint64_t next_random(struct Worker* worker) {
    worker->random = mix(worker->random);
    return worker->random;
}

static void begin(struct Worker* worker) {
    atomic_store(&worker->started_ns, now_ns());
}

static void end(struct Worker* worker) {
    const uint64_t took = now_ns() - atomic_load(&worker->started_ns);
    uint64_t longest = atomic_load(&worker->longest_ns);
    while (took > longest && !atomic_compare_exchange_weak(&worker->longest_ns, &longest, took)) {
    }
    atomic_store(&worker->started_ns, 0);
}

static uint64_t block_number(const struct Worker* worker, uint64_t index) {
    // Neighbours belong to different threads, so that requests of several meet in every stretch.
    return index * thread_count + worker->number;
}

static void write_block(struct Worker* worker, uint64_t index) {
    const uint64_t block = block_number(worker, index);
    const uint64_t generation = worker->attempted[index] + 1;
    fill(worker->buffer, block, generation);
    worker->attempted[index] = generation;
    begin(worker);
    const ssize_t written = pwrite(disk, worker->buffer, kBlockBytes, (off_t)(block * kBlockBytes));
    end(worker);
    if (written == kBlockBytes) {
        worker->acknowledged[index] = generation;
    } else {
        atomic_fetch_add(&eio, 1);
        complain("write of block %llu, generation %llu: %llu",
                 block,
                 generation,
                 written < 0 ? (unsigned long long)errno : 0);
    }
    atomic_fetch_add(&ops, 1);
}

static void check_block(struct Worker* worker, uint64_t index) {
    const uint64_t block = block_number(worker, index);
    const uint64_t* words = worker->buffer;
    begin(worker);
    const ssize_t got = pread(disk, worker->buffer, kBlockBytes, (off_t)(block * kBlockBytes));
    end(worker);
    atomic_fetch_add(&ops, 1);
    atomic_fetch_add(&reads, 1);
    if (got != kBlockBytes) {
        atomic_fetch_add(&eio, 1);
        complain("read of block %llu: %llu", block, got < 0 ? (unsigned long long)errno : 0, 0);
        return;
    }
    const uint64_t generation = words[kWordGeneration];
    if (words[kWordMagic] != kMagic || words[kWordBlock] != block ||
        words[kWordChecksum] != checksum_of(words)) {
        atomic_fetch_add(&bad, 1);
        complain("block %llu is none of ours: it says block %llu, generation %llu",
                 block,
                 words[kWordBlock],
                 generation);
    } else if (generation < worker->acknowledged[index] || generation > worker->attempted[index]) {
        atomic_fetch_add(&bad, 1);
        complain("block %llu has generation %llu, expected %llu",
                 block,
                 generation,
                 worker->acknowledged[index]);
    }
}

static void* load(void* argument) {
    struct Worker* worker = argument;
    while (!atomic_load(&stopping)) {
        const uint64_t choice = next_random(worker);
        const uint64_t index = (choice >> 16) % blocks_each;
        if (choice % 256 == 0) {
            begin(worker);
            if (fdatasync(disk) != 0) {
                atomic_fetch_add(&eio, 1);
                complain("flush: %llu", (unsigned long long)errno, 0, 0);
            }
            end(worker);
            atomic_fetch_add(&ops, 1);
        } else if (choice % 4 == 0 && worker->acknowledged[index] != 0) {
            check_block(worker, index);
        } else {
            write_block(worker, index);
        }
    }
    for (uint64_t index = 0; index < blocks_each; index++) {
        if (worker->acknowledged[index] != 0) {
            check_block(worker, index);
        }
    }
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static void* read_rng(void* argument) {
    struct Worker* worker = argument;
    unsigned char bytes[64];
    const int source = open("/dev/hwrng", O_RDONLY);
    if (source < 0) {
        atomic_fetch_add(&rng_errors, 1);
        complain("open /dev/hwrng: %llu", (unsigned long long)errno, 0, 0);
    }
    while (source >= 0 && !atomic_load(&stopping)) {
        begin(worker);
        const ssize_t got = read(source, bytes, sizeof bytes);
        end(worker);
        if (got <= 0) {
            atomic_fetch_add(&rng_errors, 1);
            complain("read of /dev/hwrng: %llu", got < 0 ? (unsigned long long)errno : 0, 0, 0);
            usleep(100000);
        } else {
            atomic_fetch_add(&rng_bytes, (uint64_t)got);
        }
    }
    atomic_fetch_sub(&running, 1);
    return NULL;
}

// The longest request of a worker that ended since the last call, or is out now.
static uint64_t take_longest(struct Worker* worker) {
    uint64_t longest = atomic_exchange(&worker->longest_ns, 0);
    const uint64_t started = atomic_load(&worker->started_ns);
    const uint64_t now = now_ns();
    if (started != 0 && now > started) {
        const uint64_t out = now - started;
        longest = out > longest ? out : longest;
        if (out > stuck_ns && worker->stuck_started_ns != started) {
            worker->stuck_started_ns = started;
            atomic_fetch_add(&stuck, 1);
            complain("thread %llu waits for %llu s", worker->number, out / 1000000000ULL, 0);
        }
    }
    return longest;
}

static void tell(const char* what, uint64_t second) {
    uint64_t longest = 0;
    for (unsigned i = 0; i < thread_count; i++) {
        const uint64_t of_worker = take_longest(&workers[i]);
        longest = of_worker > longest ? of_worker : longest;
    }
    const uint64_t rng_longest = take_longest(&rng_worker);
    printf(
        "%s second=%llu ops=%llu reads=%llu bad=%llu eio=%llu stuck=%llu longest_ms=%llu "
        "rng_bytes=%llu "
        "rng_errors=%llu rng_longest_ms=%llu\n",
        what,
        (unsigned long long)second,
        (unsigned long long)atomic_load(&ops),
        (unsigned long long)atomic_load(&reads),
        (unsigned long long)atomic_load(&bad),
        (unsigned long long)atomic_load(&eio),
        (unsigned long long)atomic_load(&stuck),
        (unsigned long long)(longest / 1000000),
        (unsigned long long)atomic_load(&rng_bytes),
        (unsigned long long)atomic_load(&rng_errors),
        (unsigned long long)(rng_longest / 1000000));
    fflush(stdout);
}

// Waits for a second, or for "stop" from the host.
static bool asked_to_stop(uint64_t until_ns) {
    static char line[64];
    static size_t length;
    for (uint64_t now = now_ns(); now < until_ns; now = now_ns()) {
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&input, 1, (int)((until_ns - now) / 1000000) + 1) <= 0 ||
            !(input.revents & POLLIN)) {
            if (input.revents != 0) {
                usleep(10000);  // hung up: there is nobody to ask, for now
            }
            continue;
        }
        char byte;
        if (read(STDIN_FILENO, &byte, 1) != 1) {
            usleep(10000);
            continue;
        }
        if (byte == '\n' || byte == '\r') {
            line[length] = 0;
            length = 0;
            if (strcmp(line, "stop") == 0) {
                return true;
            }
        } else if (length < sizeof line - 1) {
            line[length++] = byte;
        }
    }
    return false;
}

static void start(struct Worker* worker, unsigned number, void* (*body)(void*)) {
    worker->number = number;
    worker->random = mix(number + (uint64_t)time(NULL) * 1000);
    if (body == load) {
        worker->buffer = aligned_alloc(kBlockBytes, kBlockBytes);
        worker->acknowledged = calloc(blocks_each, sizeof(uint64_t));
        worker->attempted = calloc(blocks_each, sizeof(uint64_t));
        if (worker->buffer == NULL || worker->acknowledged == NULL || worker->attempted == NULL) {
            exit(2);
        }
    }
    atomic_fetch_add(&running, 1);
    if (pthread_create(&worker->thread, NULL, body, worker) != 0) {
        exit(2);
    }
}

int main(int argc, char** argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: verifier DISK THREADS BLOCKS STUCK_S [hwrng]\n");
        return 2;
    }
    const bool with_disk = strcmp(argv[1], "-") != 0;
    thread_count = (unsigned)strtoul(argv[2], NULL, 10);
    blocks_each = strtoull(argv[3], NULL, 10);
    stuck_ns = strtoull(argv[4], NULL, 10) * 1000000000ULL;
    const bool with_rng = argc > 5 && strcmp(argv[5], "hwrng") == 0;
    if (thread_count < 1 || thread_count > kThreadsMax || blocks_each < 1 ||
        blocks_each > kBlocksMax) {
        fprintf(stderr, "verifier: 1 to 64 threads, 1 to 4096 blocks each\n");
        return 2;
    }
    if (!with_disk) {
        thread_count = 0;
    } else if ((disk = open(argv[1], O_RDWR | O_DIRECT)) < 0) {
        perror(argv[1]);
        return 2;
    }
    for (unsigned i = 0; i < thread_count; i++) {
        start(&workers[i], i, load);
    }
    if (with_rng) {
        start(&rng_worker, kThreadsMax, read_rng);
    }
    const uint64_t began = now_ns();
    uint64_t second = 0;
    do {
        tell("OUTRIGGER-TICK", second++);
    } while (!asked_to_stop(began + second * 1000000000ULL));
    atomic_store(&stopping, true);
    while (atomic_load(&running) != 0 && atomic_load(&stuck) == 0) {
        usleep(100000);
        if (now_ns() > began + second * 1000000000ULL) {
            tell("OUTRIGGER-TICK", second++);
        }
    }
    tell("OUTRIGGER-VERDICT", second);
    const bool good =
        atomic_load(&bad) + atomic_load(&eio) + atomic_load(&stuck) + atomic_load(&rng_errors) == 0;
    // Requests that never return would keep exit() of a thread waiting.
    _exit(good && (!with_disk || atomic_load(&ops) > 0) ? 0 : 1);
}
