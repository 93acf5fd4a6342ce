// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/machine_metrics.h"

#include <functional>
#include <string_view>

#include <fmt/format.h>

#include "vhost-user-backend/control/metrics_writer.h"
#include "vhost-user-backend/control/printable_text.h"

namespace outrigger::vmm {
namespace {

/// Takes labels and values of one metric.
using Add = std::function<void(const std::string& labels, const std::string& value)>;

struct Metric {
    std::string_view name;
    std::string_view help;
    MetricKind kind = MetricKind::kCounter;
    void (*collect)(const MachineMetrics& machine, const Add& add);
};

std::string label(std::string_view name, std::string_view value) {
    return fmt::format("{}=\"{}\"", name, escaped_label(outrigger::control::printable(value)));
}

std::string device_label(const RemoteDevice::Status& device) {
    return label("device", device.name);
}

constexpr Metric kMetrics[] = {
    {.name = "vmm_lite_info",
     .help = "What runs; its value is 1",
     .kind = MetricKind::kGauge,
     .collect = [](const MachineMetrics& /*machine*/,
                   const Add& add) { add(label("version", OUTRIGGER_VERSION), "1"); }},
    {.name = "vmm_lite_paused",
     .help = "1 while an operator has the machine stand still",
     .kind = MetricKind::kGauge,
     .collect = [](const MachineMetrics& machine,
                   const Add& add) { add("", machine.paused ? "1" : "0"); }},
    {.name = "vmm_lite_memory_bytes",
     .help = "The guest's memory",
     .kind = MetricKind::kGauge,
     .collect = [](const MachineMetrics& machine,
                   const Add& add) { add("", fmt::format("{}", machine.memory_bytes)); }},
    {.name = "vmm_lite_exits_total",
     .help = "Times that KVM gave a processor back to the program",
     .collect =
         [](const MachineMetrics& machine, const Add& add) {
             for (size_t vcpu = 0; vcpu < machine.exits_of_processors.size(); ++vcpu) {
                 for (size_t kind = 0; kind < kExitKinds; ++kind) {
                     add(fmt::format("processor=\"{}\",{}",
                                     vcpu,
                                     label("kind", exit_kind_name(static_cast<ExitKind>(kind)))),
                         fmt::format("{}", machine.exits_of_processors[vcpu][kind]));
                 }
             }
         }},
    {.name = "vmm_lite_accesses_total",
     .help = "Reads and writes of ports and addresses that the program answered",
     .collect =
         [](const MachineMetrics& machine, const Add& add) {
             for (const auto& [name, count] : machine.statistics.accesses) {
                 add(label("range", name), fmt::format("{}", count));
             }
         }},
    {.name = "vmm_lite_start_seconds",
     .help = "When a phase of the start was reached, since the program was started",
     .kind = MetricKind::kGauge,
     .collect =
         [](const MachineMetrics& machine, const Add& add) {
             for (size_t i = 0; i < kBootPhases; ++i) {
                 if (const auto& when = machine.statistics.phases[i]) {
                     add(label("phase", boot_phase_name(static_cast<BootPhase>(i))),
                         metric_seconds(static_cast<uint64_t>(when->count()) * 1000));
                 }
             }
         }},
    {.name = "vmm_lite_device_state",
     .help = "1 for the state that the connection to the device's back end is in",
     .kind = MetricKind::kGauge,
     .collect =
         [](const MachineMetrics& machine, const Add& add) {
             for (const RemoteDevice::Status& device : machine.devices) {
                 add(fmt::format("{},{},{}",
                                 device_label(device),
                                 label("type", device.kind),
                                 label("state", describe(device.phase))),
                     "1");
             }
         }},
    {.name = "vmm_lite_device_queues_running",
     .help = "Queues that run",
     .kind = MetricKind::kGauge,
     .collect =
         [](const MachineMetrics& machine, const Add& add) {
             for (const RemoteDevice::Status& device : machine.devices) {
                 add(device_label(device), fmt::format("{}", device.queues_running));
             }
         }},
    {.name = "vmm_lite_device_losses_total",
     .help = "Times that the device's back end was lost",
     .collect =
         [](const MachineMetrics& machine, const Add& add) {
             for (const RemoteDevice::Status& device : machine.devices) {
                 add(device_label(device), fmt::format("{}", device.losses));
             }
         }},
};

}  // namespace

std::string machine_metrics_text(const MachineMetrics& machine, MetricsFormat format) {
    MetricsWriter writer(format);
    for (const Metric& metric : kMetrics) {
        writer.begin(metric.name, metric.kind, metric.help);
        metric.collect(machine, [&](const std::string& labels, const std::string& value) {
            writer.sample(metric.name, labels, value);
        });
    }
    return writer.take();
}

}  // namespace outrigger::vmm
