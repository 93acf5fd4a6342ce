// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_program.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/resource.h>

#include "devices/fs/capability_list.h"
#include "devices/fs/fs_device.h"
#include "devices/fs/fs_sandbox.h"

namespace outrigger::fs {
namespace {

constexpr std::array<std::string_view, 4> kCachePolicies = {"never", "metadata", "auto", "always"};
constexpr std::array<std::string_view, 3> kHandlePolicies = {"never", "prefer", "mandatory"};
constexpr std::array<std::string_view, 2> kLosses = {"abort", "guest-error"};
constexpr std::array<std::string_view, 3> kDemands = {"never", "auto", "always"};

constexpr std::array<std::string_view, 2> kTranslators = {"daemon", "mount"};

constexpr size_t kTagBytesMax = 36;

/// What vmm-lite takes at most, and how much a guest maps at a time (Linux).
constexpr uint64_t kDaxWindowBytesMax = uint64_t{1} << 38;
constexpr uint64_t kDaxGrain = uint64_t{2} << 20;

/// Descriptors of the process's own: sockets, rings, memory, requests under way.
constexpr uint64_t kOwnDescriptors = 1024;

constexpr OptionSpec flag(std::string_view name, std::string_view help) {
    return {.name = name, .kind = OptionKind::kFlag, .help = help};
}

constexpr std::array kOptions = {
    OptionSpec{.name = "shared-dir",
               .value_name = "PATH",
               .help = "Share this directory of the host, with all that is below (or one file)"},
    OptionSpec{.name = "tag",
               .value_name = "TEXT",
               .help = "What the guest mounts the share by, at most 36 bytes; without it the front "
                       "end has one"},
    OptionSpec{.name = "request-queues",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Offer so many request queues, beside the one of high priority; front ends "
                       "use as many as they like",
               .default_value = "8",
               .number_min = 1,
               .number_max = 64},
    OptionSpec{.name = "cache",
               .kind = OptionKind::kChoice,
               .value_name = "POLICY",
               .help = "What the guest may keep: never (nothing, and no file pages); metadata "
                       "(names and attributes, for a day, but no file pages); auto (names and "
                       "attributes for a second); always (everything, for a day: nobody else may "
                       "change the files)",
               .default_value = "auto",
               .choices = kCachePolicies},
    flag("writeback", "Let the guest keep writes in its page cache until it likes to send them"),
    flag("allow-direct-io", "Pass O_DIRECT of the guest's programs on to the host's files"),
    flag("allow-mmap",
         "Let the guest map files shared although it keeps no pages of them "
         "(--cache=never and metadata)"),
    flag("no-readdirplus", "List directories without the attributes of what is in them"),
    flag("preserve-noatime", "Pass O_NOATIME on, which the host refuses for files of other users"),
    flag("readonly", "Refuse all changes"),
    flag("no-announce-submounts",
         "Do not tell the guest where another file system is mounted in the share, "
         "whose inode numbers may then appear twice"),
    flag("xattr", "Serve extended attributes, under the names that they have on the host"),
    OptionSpec{.name = "xattrmap",
               .value_name = "RULES",
               .help = "Keep extended attributes under other names on the host: rules of the form "
                       ":type:scope:key:prepend: (see the README); implies --xattr"},
    OptionSpec{.name = "posix-acl",
               .kind = OptionKind::kChoice,
               .value_name = "WHEN",
               .help = "Serve POSIX access control lists: never; auto, when the guest can; or "
                       "always, where a guest that cannot is refused; implies --xattr",
               .default_value = "never",
               .choices = kDemands},
    OptionSpec{.name = "security-label",
               .kind = OptionKind::kChoice,
               .value_name = "WHEN",
               .help = "Give new files the security label that the guest sends along: never, auto "
                       "or always, as above; implies --xattr",
               .default_value = "never",
               .choices = kDemands},
    flag("killpriv-v2",
         "Take set-user-id, set-group-id and capabilities from files that are "
         "written here, so that the guest need not look for them"),
    flag("posix-lock", "Let fcntl() locks of the guest hold on the host, too"),
    flag("flock", "Let flock() locks of the guest hold on the host, too"),
    flag("nfs-export",
         "Let the guest export the share by NFS: files are found by their numbers when it has "
         "forgotten them (needs --inode-file-handles)"),
    OptionSpec{.name = "thread-pool-size",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Have N threads for what must wait: the disk, fsync(), copies of ranges; "
                       "the queues go on meanwhile",
               .default_value = "4",
               .number_min = 1,
               .number_max = 256},
    OptionSpec{.name = "translate-uid",
               .value_name = "RULE",
               .help = "Let users of the guest be others on the host: map:GUEST:HOST:COUNT (both "
                       "ways), guest:GUEST:HOST:COUNT, host:HOST:GUEST:COUNT, "
                       "squash-guest:GUEST:HOST:COUNT, squash-host:HOST:GUEST:COUNT, or "
                       "forbid-guest:GUEST:COUNT",
               .repeatable = true},
    OptionSpec{.name = "translate-gid",
               .value_name = "RULE",
               .help = "The same for groups",
               .repeatable = true},
    OptionSpec{.name = "translate-by",
               .kind = OptionKind::kChoice,
               .value_name = "WHO",
               .help = "Who translates: daemon; or mount, the kernel by an idmapped mount of the "
                       "share, which is right for access control lists, too, and takes root and "
                       "rules of the type map (users in none are nobody then)",
               .default_value = "daemon",
               .choices = kTranslators},
    OptionSpec{.name = "inode-file-handles",
               .kind = OptionKind::kChoice,
               .value_name = "WHEN",
               .help = "Find files again by their file system's handles, instead of a descriptor "
                       "for each that the guest knows: never; prefer, where there are handles; or "
                       "mandatory, where files without are not shown",
               .default_value = "never",
               .choices = kHandlePolicies},
    OptionSpec{.name = "modcaps",
               .value_name = "LIST",
               .help = "Keep more or fewer of root's capabilities than serving files takes: "
                       "+sys_admin:-mknod, say; trusted.* attributes need sys_admin"},
    OptionSpec{.name = "dax-window",
               .kind = OptionKind::kSize,
               .value_name = "SIZE",
               .help = "Offer a DAX window of SIZE, a multiple of 2M: the guest maps files there "
                       "and reads and writes the host's page cache itself, where the front end can "
                       "(vmm-lite); a guest that uses it does not migrate; 0 means none",
               .default_value = "0",
               .number_max = kDaxWindowBytesMax},
    OptionSpec{.name = "dax-file-size",
               .kind = OptionKind::kSize,
               .value_name = "SIZE",
               .help =
                   "With --dax-window, have guests that leave the choice to us (mounted without "
                   "dax=, or with dax=inode) map files of at least SIZE, because each takes 2M "
                   "of the window",
               .default_value = "0",
               .number_max = kDaxWindowBytesMax},
    OptionSpec{.name = "migration-on-error",
               .kind = OptionKind::kChoice,
               .value_name = "WHAT",
               .help = "When a file of a guest that moves here is not found: abort, so that the "
                       "guest goes on where it was; or guest-error, so that the guest finds out",
               .default_value = "abort",
               .choices = kLosses},
    OptionSpec{.name = "rlimit-nofile",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Let the process have N descriptors, of which guests may hold all but "
                       "1024 (of several shares half in equal parts, half for whoever needs more); "
                       "without it 1000000, or as many as the system allows",
               .number_min = 2048,
               .number_max = 1'073'741'816},
    OptionSpec{.name = "inodes-max",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Let the guest know N files at a time, some 300 bytes each; without "
                       "--inode-file-handles descriptors run out before that",
               .default_value = "8388608",
               .number_min = 64,
               .number_max = 16'000'000},
};

/// The descriptor of each share's root, in the order of the devices: for Landlock.
std::vector<int>& share_roots() {
    static std::vector<int> roots;
    return roots;
}

/// What their guests may make us hold.
const std::shared_ptr<DescriptorBudget>& budget() {
    static const auto instance = std::make_shared<DescriptorBudget>(0);
    return instance;
}

/// Whether each of them is served by handles.
std::vector<bool>& shares_by_handle() {
    static std::vector<bool> shares;
    return shares;
}

/// Do queues tell a keeper what they open?
bool& is_kept() {
    static bool kept = false;
    return kept;
}

/// Raises the limit as far as it can, and returns it.
Result<uint64_t> raise_descriptor_limit(std::optional<uint64_t> wanted) {
    constexpr uint64_t kDefault = 1'000'000;
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return failure(error_from_errno("cannot ask for the limit of descriptors"));
    }
    const uint64_t goal = wanted.value_or(kDefault);
    const rlimit raised{.rlim_cur = goal, .rlim_max = std::max<rlim_t>(goal, limit.rlim_max)};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) {
        return goal;
    }
    if (wanted && goal > limit.rlim_max) {
        return failure(error_from_errno("--rlimit-nofile is more than the system allows"));
    }
    limit.rlim_cur = std::min<rlim_t>(goal, limit.rlim_max);
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return failure(error_from_errno("cannot raise the limit of descriptors"));
    }
    return uint64_t{limit.rlim_cur};
}

template <class Enum, size_t kCount>
Enum choice(const OptionValues& values,
            std::string_view name,
            const std::array<std::string_view, kCount>& texts) {
    const std::string text = values.text(name).value_or("");
    const auto found = std::ranges::find(texts, text);
    return static_cast<Enum>(found - texts.begin());
}

std::chrono::nanoseconds timeout_of(CachePolicy policy) {
    switch (policy) {
        case CachePolicy::kNever:
            return std::chrono::seconds(0);
        case CachePolicy::kAuto:
            return std::chrono::seconds(1);
        case CachePolicy::kMetadata:
        case CachePolicy::kAlways:
            break;
    }
    return std::chrono::hours(24);
}

/// Where the host is to keep capabilities of files, if not under the name that it knows.
Result<std::string> find_capabilities(const FsSettings& settings) {
    constexpr std::string_view kAccessList = "system.posix_acl_access";
    const auto list = settings.attributes.to_host(kAccessList);
    if (settings.posix_acl != Demand::kNever && (!list || *list != kAccessList)) {
        return failure(Error{.message = "--posix-acl needs access control lists under their own "
                                        "name: --xattrmap takes it from them"});
    }
    constexpr std::string_view kCapabilities = "security.capability";
    const auto name = settings.attributes.to_host(kCapabilities);
    return name && *name != kCapabilities ? *name : std::string();
}

/// Whose files are whose is told to the kernel, in place of what was read.
Result<void> translate_by_mount(FsSettings& settings) {
    if (settings.uids.is_empty() && settings.gids.is_empty()) {
        return failure(Error{.message = "--translate-by=mount translates by the rules of "
                                        "--translate-uid and --translate-gid: there are none"});
    }
    settings.mount_uids = OUTRIGGER_TRY(settings.uids.namespace_lines("translate-uid"));
    settings.mount_gids = OUTRIGGER_TRY(settings.gids.namespace_lines("translate-gid"));
    settings.uids = IdMap();
    settings.gids = IdMap();
    return {};
}

Result<FsSettings> read_settings(const OptionValues& values) {
    FsSettings settings;
    settings.shared_dir = values.text("shared-dir").value_or("");
    settings.tag = values.text("tag").value_or("");
    settings.request_queues = static_cast<uint16_t>(values.number("request-queues").value_or(8));
    settings.cache = choice<CachePolicy>(values, "cache", kCachePolicies);
    settings.timeout = timeout_of(settings.cache);
    settings.writeback = values.flag("writeback");
    settings.allow_direct_io = values.flag("allow-direct-io");
    settings.allow_mmap = values.flag("allow-mmap");
    settings.readdirplus = !values.flag("no-readdirplus");
    settings.preserve_noatime = values.flag("preserve-noatime");
    settings.read_only = values.flag("readonly");
    settings.announce_submounts = !values.flag("no-announce-submounts");
    settings.xattr = values.flag("xattr");
    settings.posix_acl = choice<Demand>(values, "posix-acl", kDemands);
    settings.security_label = choice<Demand>(values, "security-label", kDemands);
    const std::string rules = values.text("xattrmap").value_or("");
    settings.xattr = settings.xattr || settings.posix_acl != Demand::kNever ||
                     settings.security_label != Demand::kNever || !rules.empty();
    if (!rules.empty()) {
        settings.attributes = OUTRIGGER_TRY(AttributeMap::parse(rules));
        settings.capabilities_name = OUTRIGGER_TRY(find_capabilities(settings));
    }
    settings.uids = OUTRIGGER_TRY(IdMap::parse("translate-uid", values.texts("translate-uid")));
    settings.gids = OUTRIGGER_TRY(IdMap::parse("translate-gid", values.texts("translate-gid")));
    if (values.text("translate-by") == "mount") {
        OUTRIGGER_TRY(translate_by_mount(settings));
    }
    if (settings.posix_acl != Demand::kNever &&
        !(settings.uids.is_empty() && settings.gids.is_empty())) {
        return failure(Error{.message = "--posix-acl names users of the host: --translate-uid and "
                                        "--translate-gid go with it by --translate-by=mount"});
    }
    settings.pool_threads = values.number("thread-pool-size").value_or(4);
    settings.killpriv_v2 = values.flag("killpriv-v2");
    settings.dax_window_bytes = values.number("dax-window").value_or(0);
    settings.dax_file_bytes_min = values.number("dax-file-size").value_or(0);
    settings.posix_locks = values.flag("posix-lock");
    settings.flock = values.flag("flock");
    settings.nfs_export = values.flag("nfs-export");
    settings.forgives_lost_files = values.text("migration-on-error") == "guest-error";
    const uint64_t limit = OUTRIGGER_TRY(raise_descriptor_limit(values.number("rlimit-nofile")));
    settings.descriptors_max = limit > 2 * kOwnDescriptors ? limit - kOwnDescriptors : limit / 2;
    settings.budget = budget();
    settings.budget->set_max(settings.descriptors_max);
    settings.inodes_max = values.number("inodes-max").value_or(settings.inodes_max);
    return settings;
}

Result<void> check_options(const OptionValues& values) {
    if (values.text("shared-dir").value_or("").empty()) {
        return failure(Error{.message = "--shared-dir is required: give the directory to share"});
    }
    if (values.text("tag").value_or("").size() > kTagBytesMax) {
        return failure(Error{.message = "--tag takes at most 36 bytes"});
    }
    if (values.number("dax-window").value_or(0) % kDaxGrain != 0) {
        return failure(Error{.message = "--dax-window takes a multiple of 2M"});
    }
    if (const auto list = values.text("modcaps")) {
        OUTRIGGER_TRY(parse_capability_changes(*list));
    }
    return {};
}

Result<Share> open_share(const FsSettings& settings, FsKeeper* keeper) {
    if (keeper == nullptr) {
        return Share::open(settings);
    }
    const bool is_mapped = !settings.mount_uids.empty();
    if (UniqueFd root = keeper->find_root(is_mapped); root.valid()) {
        return Share::go_on(settings, std::move(root));
    }
    if (keeper->find_root(!is_mapped).valid()) {
        return failure(Error{.message = "the share that the guest has was mounted for other users "
                                        "(--translate-by)"});
    }
    Share share = OUTRIGGER_TRY(Share::open(settings));
    if (!keeper->keep_root(share.root_fd(), is_mapped)) {
        return failure(Error{.message = "the keeper does not take the shared directory"});
    }
    return share;
}

Result<std::unique_ptr<Device>> create(const OptionValues& values, DeviceKeeper* device_keeper) {
    // A limit on the size of files is an error of the write that goes beyond it, and no more.
    ::signal(SIGXFSZ, SIG_IGN);
    FsSettings settings = OUTRIGGER_TRY(read_settings(values));
    std::unique_ptr<FsKeeper> keeper;
    std::unique_ptr<DaxRecords> mapped;
    if (device_keeper != nullptr) {
        keeper = OUTRIGGER_TRY(FsKeeper::open(*device_keeper));
        if (settings.dax_window_bytes != 0) {
            mapped = OUTRIGGER_TRY(DaxRecords::open(*device_keeper));
        }
    }
    Share share = OUTRIGGER_TRY(open_share(settings, keeper.get()));
    settings.handles = OUTRIGGER_TRY(InodeHandles::check(
        choice<HandlePolicy>(values, "inode-file-handles", kHandlePolicies), share));
    if (settings.nfs_export && settings.handles == HandlePolicy::kNever) {
        return failure(Error{.message = "--nfs-export needs file handles "
                                        "(--inode-file-handles=mandatory)"});
    }
    if (keeper != nullptr) {
        OUTRIGGER_TRY(check_kept(settings, *keeper));
    }
    share_roots().push_back(share.root_fd());
    shares_by_handle().push_back(settings.handles != HandlePolicy::kNever);
    is_kept() = keeper != nullptr;
    return std::make_unique<FsDevice>(
        settings, std::move(share), std::move(keeper), std::move(mapped));
}

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    return create(values, nullptr);
}

Result<std::unique_ptr<Device>> create_kept_device(const OptionValues& values,
                                                   DeviceKeeper& keeper) {
    return create(values, &keeper);
}

/// Without handles each file that the guest knows is a message to the keeper.
bool has_keeper_unasked(const OptionValues& values) {
    return values.text("inode-file-handles") != "never";
}

/// Cloning the share, what leave_groups() and Share::adopt_thread() do, and what threads may.
constexpr std::string_view kKeeperCalls[] = {
    "open_tree", "mount_setattr", "setgroups", "setfsuid", "setfsgid", "open_by_handle_at"};

SandboxExtras sandbox_extras(const OptionValues& values) {
    SandboxExtras extras;
    // Asked for behind create_device() of the same device.
    extras.writable_trees = {share_roots().back()};
    extras.opens_by_handle = shares_by_handle().back();
    extras.shows_owners = true;
    extras.kept_capabilities = fs_capabilities(extras.opens_by_handle);
    if (const auto changes = parse_capability_changes(values.text("modcaps").value_or(""))) {
        extras.kept_capabilities = changes->apply(extras.kept_capabilities);
    }
    extras.system_calls = fs_extra_system_calls(extras.opens_by_handle, is_kept());
    return extras;
}

const DeviceProgram kProgram{
    .name = "outrigger-fs",
    .type = "fs",
    .summary = "A vhost-user back end that shares a directory with a guest by virtio-fs",
    .options = kOptions,
    .capabilities = {},
    .create_device = create_device,
    .create_kept_device = create_kept_device,
    .check_options = check_options,
    .sandbox = fs_sandbox_needs(),
    .sandbox_extras = sandbox_extras,
    .isolate = leave_groups,
    .has_keeper_unasked = has_keeper_unasked,
    .keeper_calls = kKeeperCalls,
    .workers_may_wait = true,
};

}  // namespace

const DeviceProgram& fs_program() {
    return kProgram;
}

}  // namespace outrigger::fs
