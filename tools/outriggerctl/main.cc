// SPDX-License-Identifier: Apache-2.0
/// outriggerctl: asks and changes running daemons by their control socket.
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/outriggerctl/attach.h"
#include "tools/outriggerctl/change_devices.h"
#include "tools/outriggerctl/ctl_client.h"
#include "tools/outriggerctl/ctl_options.h"
#include "tools/outriggerctl/ctl_report.h"
#include "tools/outriggerctl/ctl_statistics.h"
#include "tools/outriggerctl/state_file.h"
#include "tools/outriggerctl/take_over.h"
#include "tools/outriggerctl/top.h"

namespace outrigger::ctl {
namespace {

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kUsage = 2;

int complain(const std::string& what, int status) {
    std::fprintf(stderr, "outriggerctl: %s\n", what.c_str());
    return status;
}

int print(const std::string& text) {
    if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
        return complain("cannot write to stdout", kFailed);
    }
    return kDone;
}

int print_man_page(const std::string& path) {
    std::ifstream file(path);
    const std::string page((std::istreambuf_iterator<char>(file)), {});
    const auto text = ctl_man_page(page);
    return text ? print(*text) : complain(path + ": " + text.error().message, kFailed);
}

int report(const CtlPlan& plan, const control::v1::Reply& reply) {
    if (plan.json) {
        const int printed = print(json_text(reply));
        return reply.has_error() ? kFailed : printed;
    }
    if (reply.has_error()) {
        return complain(reply.error().message(), kFailed);
    }
    if (reply.has_program()) {
        if (reply.program().shortened()) {
            (void)complain("not all numbers fit into one answer: ask for one --device", kDone);
        }
        return print(plan.list         ? list_text(reply.program())
                     : plan.statistics ? statistics_text(reply.program())
                                       : show_text(reply.program()));
    }
    return reply.done().note().empty() ? kDone : print(reply.done().note() + "\n");
}

/// A file that nobody else may read, and that was not there.
Result<UniqueFd> make_capture_file(const std::string& path) {
    UniqueFd file(path == "-" ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                              : ::open(path.c_str(),
                                       O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                                       S_IRUSR | S_IWUSR));
    if (!file.valid()) {
        return failure(error_from_errno("cannot make " + path));
    }
    return file;
}

int ask_daemon(const CtlPlan& plan) {
    // First, so that a wrong name of the socket leaves no empty file.
    const auto socket = connect_to(plan.socket, plan.timeout);
    if (!socket) {
        return complain(socket.error().message, kFailed);
    }
    UniqueFd image;
    if (!plan.capture_path.empty()) {
        auto file = make_capture_file(plan.capture_path);
        if (!file) {
            return complain(file.error().message, kFailed);
        }
        image = *std::move(file);
    }
    if (!plan.image_path.empty()) {
        const int access = plan.image_read_only ? O_RDONLY : O_RDWR;
        // O_NONBLOCK in case it is a FIFO; the daemon takes the flag off, or refuses the file.
        image.reset(::open(plan.image_path.c_str(), access | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
        if (!image.valid()) {
            return complain(error_from_errno("cannot open " + plan.image_path).message, kFailed);
        }
    }
    auto reply = ask(socket->get(), plan.request, image.get(), plan.timeout);
    if (reply) {
        make_printable(*reply);
        if (reply->has_error() && !plan.capture_path.empty() && plan.capture_path != "-") {
            // Made above, and empty.
            (void)::unlink(plan.capture_path.c_str());
        }
    }
    return reply ? report(plan, *reply) : complain(reply.error().message, kFailed);
}

int run(std::span<const char* const> arguments) {
    const auto plan = parse_ctl_arguments(arguments);
    if (!plan) {
        return complain(plan.error().message + " (see --help)", kUsage);
    }
    switch (plan->action) {
        case Action::kAsk:
            return ask_daemon(*plan);
        case Action::kAttach: {
            const auto attached = attach(*plan);
            return attached ? kDone : complain(attached.error().message, kFailed);
        }
        case Action::kTop:
            return top(*plan);
        case Action::kAddDevice:
        case Action::kRemoveDevice:
            return change_devices(*plan);
        case Action::kTakeOver:
            return take_over(*plan);
        case Action::kPrintState: {
            const auto text = state_file_text(plan->state_path);
            return text ? print(*text) : complain(text.error().message, kFailed);
        }
        case Action::kHelp:
            return print(ctl_help_text());
        case Action::kVersion:
            return print("outriggerctl " OUTRIGGER_VERSION "\n");
        case Action::kManPage:
            return print_man_page(plan->man_page_template);
    }
    return kFailed;
}

}  // namespace
}  // namespace outrigger::ctl

int main(int argc, char** argv) {
    ::signal(SIGPIPE, SIG_IGN);
    const auto count = argc > 0 ? static_cast<size_t>(argc) - 1 : 0;
    try {
        return outrigger::ctl::run(std::span(argv + (argc > 0 ? 1 : 0), count));
    } catch (const std::exception& exception) {
        std::fprintf(stderr, "outriggerctl: %s\n", exception.what());
        return 1;
    }
}
