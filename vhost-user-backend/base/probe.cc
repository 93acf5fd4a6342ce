// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/probe.h"

#ifndef OUTRIGGER_NO_USDT

// The section that tracers expect.
#define OUTRIGGER_PROBE_SEMAPHORE __attribute__((section(".probes"))) volatile unsigned short

OUTRIGGER_PROBE_SEMAPHORE outrigger_kick_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_process_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_fetch_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_translate_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_parse_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_submit_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_complete_io_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_answer_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_publish_semaphore;
OUTRIGGER_PROBE_SEMAPHORE outrigger_rearm_semaphore;

#endif
