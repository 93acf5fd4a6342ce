// SPDX-License-Identifier: Apache-2.0
// The metrics of shared directories.
#include <outrigger_control.pb.h>

#include "vhost-user-backend/daemon/metrics_text.h"

namespace outrigger {
namespace {

namespace v1 = control::v1;

void add_reasons(MetricSamples& samples,
                 std::string_view label,
                 const google::protobuf::RepeatedPtrField<v1::ReasonCount>& counts) {
    for (const v1::ReasonCount& each : counts) {
        samples.add({{label, each.reason()}}, each.count());
    }
}

constexpr DeviceMetric kMetrics[] = {
    {.name = "outrigger_fs_requests_total",
     .help = "Requests, by operation",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 for (const v1::OperationCount& each : b.requests()) {
                     samples.add({{"operation", each.operation()}}, each.count());
                 }
             }
         }},
    {.name = "outrigger_fs_failures_total",
     .help = "Requests that were answered with an error, by its name",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 add_reasons(samples, "error", b.failed());
             }
         }},
    {.name = "outrigger_fs_refusals_total",
     .help = "Requests that were wrong in themselves or beyond a limit, by why",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 add_reasons(samples, "reason", b.refused());
             }
         }},
    {.name = "outrigger_fs_bytes_total",
     .help = "Bytes of files that were read, written, and copied from file to file",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({{"operation", "read"}}, b.bytes_read());
                 samples.add({{"operation", "write"}}, b.bytes_written());
                 samples.add({{"operation", "copy"}}, b.bytes_copied());
             }
         }},
    {.name = "outrigger_fs_deferred_total",
     .help =
         "Requests that had to wait for the host, by where: threads of the pool, or an io_uring",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({{"to", "pool"}}, b.given_to_pool());
                 samples.add({{"to", "io_uring"}}, b.given_to_kernel());
             }
         }},
    {.name = "outrigger_fs_lock_waits_total",
     .help = "Requests that waited for somebody's lock",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({}, b.lock_waits());
             }
         }},
    {.name = "outrigger_fs_taken_up_again_total",
     .help = "Requests that an earlier process had in hand",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({}, b.taken_up_again());
             }
         }},
    {.name = "outrigger_fs_nodes",
     .help = "Files that the guest knows, or that are remembered, with the root",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({}, b.nodes());
             }
         }},
    {.name = "outrigger_fs_remembered_nodes",
     .help = "Entries of the list of those that the guest has forgotten; some may be known again",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({}, b.nodes_remembered());
             }
         }},
    {.name = "outrigger_fs_open_files",
     .help = "Files and directories that the guest has open",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({}, b.open_files());
             }
         }},
    {.name = "outrigger_fs_mappings",
     .help = "Stretches of files in the DAX window",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({}, b.mappings());
             }
         }},
    {.name = "outrigger_fs_descriptors",
     .help = "Descriptors that the guest makes the process hold, or keep free",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({}, b.descriptors());
             }
         }},
    {.name = "outrigger_fs_descriptors_max",
     .help = "How many of those no other share takes from this one",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_shared_directory()) {
                 const auto& b = device.shared_directory();
                 samples.add({}, b.descriptors_max());
             }
         }},
};

}  // namespace

std::span<const DeviceMetric> share_metrics() {
    return kMetrics;
}

}  // namespace outrigger
