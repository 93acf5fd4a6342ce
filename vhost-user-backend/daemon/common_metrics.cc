// SPDX-License-Identifier: Apache-2.0
// The metrics that every device has: of its queues, its threads and its front ends.
#include <string>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/daemon/metrics_text.h"

namespace outrigger {
namespace {

namespace v1 = control::v1;

template <class Reasons>
void add_reasons(MetricSamples& samples, const Reasons& reasons) {
    for (const v1::ReasonCount& each : reasons) {
        samples.add({{"reason", each.reason()}}, each.count());
    }
}

constexpr DeviceMetric kMetrics[] = {
    {.name = "outrigger_device_connected",
     .help = "1 while a front end is there",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             samples.add({{"type", device.type()}}, device.connected() ? 1 : 0);
         }},
    {.name = "outrigger_device_drained",
     .help = "1 while an operator has the device begin no more requests",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             samples.add({}, device.intake() != v1::Device::OPEN ? 1 : 0);
         }},
    {.name = "outrigger_queue_running",
     .help = "1 while the ring runs",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.running() ? 1 : 0);
             }
         }},
    {.name = "outrigger_queue_requests_total",
     .help = "Requests taken from the ring",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.requests_taken());
             }
         }},
    {.name = "outrigger_queue_answers_total",
     .help = "Requests answered",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.requests_answered());
             }
         }},
    {.name = "outrigger_queue_requests_left_total",
     .help = "Requests left in the in-flight buffer for whoever serves the ring next",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.requests_left());
             }
         }},
    {.name = "outrigger_queue_requests_in_flight",
     .help = "Requests taken and neither answered nor left",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.requests_in_flight());
             }
         }},
    {.name = "outrigger_queue_bytes_total",
     .help = "Bytes of the buffers of answered requests, of both directions",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.bytes());
             }
         }},
    {.name = "outrigger_queue_batches_total",
     .help = "Batches in which answers became visible",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.batches());
             }
         }},
    {.name = "outrigger_queue_kicks_total",
     .help = "Notifications of the driver",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.kicks());
             }
         }},
    {.name = "outrigger_queue_calls_total",
     .help = "Notifications to the driver",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.calls());
             }
         }},
    {.name = "outrigger_queue_calls_lost_total",
     .help = "Notifications that nobody was there to read",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (const v1::QueueStatistics& q : device.queue_statistics()) {
                 samples.add({{"queue", std::to_string(q.queue())}}, q.calls_lost());
             }
         }},
    {.name = "outrigger_thread_busy_seconds_total",
     .help = "Time in which the thread worked",
     .is_nanoseconds = true,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (int i = 0; i < device.threads_size(); ++i) {
                 samples.add({{"thread", std::to_string(i)}}, device.threads(i).busy_nanoseconds());
             }
         }},
    {.name = "outrigger_thread_polling_seconds_total",
     .help = "Time in which the thread looked for work before it slept",
     .is_nanoseconds = true,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             for (int i = 0; i < device.threads_size(); ++i) {
                 samples.add({{"thread", std::to_string(i)}},
                             device.threads(i).polling_nanoseconds());
             }
         }},
    {.name = "outrigger_queue_moves_total",
     .help = "Moves of queues that ran from thread to thread",
     .collect = [](const v1::Device& device,
                   MetricSamples& samples) { samples.add({}, device.queue_moves()); }},
    {.name = "outrigger_queue_moves_failed_total",
     .help = "Moves that were given up",
     .collect = [](const v1::Device& device,
                   MetricSamples& samples) { samples.add({}, device.queue_moves_failed()); }},
    {.name = "outrigger_sessions_total",
     .help = "Front ends that came",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             samples.add({}, device.session_statistics().opened());
         }},
    {.name = "outrigger_sessions_closed_total",
     .help = "Front ends that went, by why",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             add_reasons(samples, device.session_statistics().closed());
         }},
    {.name = "outrigger_session_messages_total",
     .help = "Messages of front ends",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             samples.add({}, device.session_statistics().messages());
         }},
    {.name = "outrigger_session_replies_total",
     .help = "Answers to them",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             samples.add({}, device.session_statistics().replies());
         }},
    {.name = "outrigger_session_refusals_total",
     .help = "Messages that were refused, by why",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             add_reasons(samples, device.session_statistics().refused());
         }},
    {.name = "outrigger_rings_started_total",
     .help = "Rings that were started",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             samples.add({}, device.session_statistics().rings_started());
         }},
    {.name = "outrigger_rings_broken_total",
     .help = "Rings that broke, by why",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             add_reasons(samples, device.session_statistics().rings_broken());
         }},
};

}  // namespace

std::span<const DeviceMetric> common_metrics() {
    return kMetrics;
}

}  // namespace outrigger
