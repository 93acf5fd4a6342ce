// SPDX-License-Identifier: Apache-2.0
/// Probes at the steps of a request: see docs/probes.md. For .cc files, not for installed headers.
#pragma once

#ifndef OUTRIGGER_NO_USDT
#define SDT_USE_VARIADIC
#include <sys/sdt.h>

/// One instruction that does nothing, and a note of the binary where it is and where its arguments,
/// which must cost nothing to make, are.
#define OUTRIGGER_PROBE(name, ...) STAP_PROBEV(outrigger, name, __VA_ARGS__)
#else
#define OUTRIGGER_PROBE(name, ...) static_cast<void>(0)
#endif
