// SPDX-License-Identifier: Apache-2.0
/// Probes at the steps of a request: see docs/probes.md. For .cc files, not for installed headers.
#pragma once

#ifndef OUTRIGGER_NO_USDT
#define SDT_USE_VARIADIC
#define _SDT_HAS_SEMAPHORES  // NOLINT(bugprone-reserved-identifier): how sys/sdt.h is asked
#include <sys/sdt.h>

extern "C" {
// How many watch each probe: whoever traces counts itself here, by the note of the binary.
extern volatile unsigned short outrigger_kick_semaphore;
extern volatile unsigned short outrigger_process_semaphore;
extern volatile unsigned short outrigger_fetch_semaphore;
extern volatile unsigned short outrigger_translate_semaphore;
extern volatile unsigned short outrigger_parse_semaphore;
extern volatile unsigned short outrigger_submit_semaphore;
extern volatile unsigned short outrigger_complete_io_semaphore;
extern volatile unsigned short outrigger_answer_semaphore;
extern volatile unsigned short outrigger_publish_semaphore;
extern volatile unsigned short outrigger_rearm_semaphore;
}

#define OUTRIGGER_PROBE_IS_WATCHED(name) (outrigger_##name##_semaphore != 0)

/// For Virtqueue::set_watched(): the probes that each chain comes to.
#define OUTRIGGER_CHAINS_ARE_WATCHED                                               \
    (OUTRIGGER_PROBE_IS_WATCHED(fetch) || OUTRIGGER_PROBE_IS_WATCHED(translate) || \
     OUTRIGGER_PROBE_IS_WATCHED(answer))

/// While nobody watches, one comparison: the arguments are not made, and the compiler need not keep
/// anything in memory for a statement that might look at it.
#define OUTRIGGER_PROBE(name, ...)                         \
    do {                                                   \
        if (OUTRIGGER_PROBE_IS_WATCHED(name)) [[unlikely]] \
            STAP_PROBEV(outrigger, name, __VA_ARGS__);     \
    } while (false)
#else
#define OUTRIGGER_CHAINS_ARE_WATCHED false
#define OUTRIGGER_PROBE(name, ...) static_cast<void>(0)
#endif
