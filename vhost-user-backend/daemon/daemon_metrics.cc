// SPDX-License-Identifier: Apache-2.0
// What a daemon tells of itself: its description, and the socket that has it as metrics.
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/daemon.h"
#include "vhost-user-backend/daemon/metrics_server.h"

namespace outrigger {

Result<void> Daemon::open_metrics() {
    // The sandbox does not let us ask later.
    description_.keeper_pid = store_ != nullptr && store_->is_parent() ? ::getppid() : 0;
    if (!settings_.config_path.empty()) {
        std::error_code ignored;
        description_.config_path = std::filesystem::absolute(settings_.config_path, ignored);
    }
    const MetricsSettings& metrics = settings_.metrics;
    if (metrics.activated || !metrics.path.empty()) {
        Endpoint endpoint = OUTRIGGER_TRY(open_endpoint({.path = metrics.path,
                                                         .fd = std::nullopt,
                                                         .activated = metrics.activated,
                                                         .fd_option = {},
                                                         .key = metrics.key}));
        metrics_listener_ = std::move(endpoint.listener);
    }
    if (!metrics.tcp) {
        return {};
    }
    const std::string name = listener_names(metrics.key).socket;
    UniqueFd kept = store_ != nullptr ? store_->open(name) : UniqueFd();
    if (kept.valid()) {
        metrics_listener_.emplace();
        metrics_listener_->fd = OUTRIGGER_TRY(listen_on_tcp(std::move(kept), *metrics.tcp));
        store_->claim(name);
        return {};
    }
    metrics_listener_.emplace();
    metrics_listener_->fd = OUTRIGGER_TRY(listen_at_tcp(*metrics.tcp, metrics.text));
    if (store_ != nullptr) {
        (void)store_->keep(name, metrics_listener_->fd.get());
    }
    return {};
}

void Daemon::describe_program() {
    description_.program = program_.name;
    description_.version = OUTRIGGER_VERSION;
    for (size_t i = 0; i < served_.size(); ++i) {
        const DeviceSettings& settings = settings_.devices[i];
        description_.targets.push_back({.name = settings.name,
                                        .type = program_.type,
                                        .socket = settings.where(),
                                        .device = *served_[i].device,
                                        .server = *served_[i].server});
    }
}

void Daemon::start_metrics() {
    if (!metrics_listener_) {
        return;
    }
    metrics_ = std::make_unique<MetricsServer>(
        MetricsServer::Environment{.loop = *loop_, .description = description_},
        *std::exchange(metrics_listener_, std::nullopt));
    log(LogLevel::kInfo, "metrics: listening at {}", settings_.metrics.text);
}

}  // namespace outrigger
