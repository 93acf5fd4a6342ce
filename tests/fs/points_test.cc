// SPDX-License-Identifier: Apache-2.0
// outrigger-fs under its keeper, killed in the midst of a request: at each system call that any of
// its threads makes, before it and behind it. Whatever was done by then, the guest gets one answer,
// and finds what it says.
#include <cerrno>
#include <cstring>
#include <functional>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/fs/directory_listing.h"
#include "tests/fs/fs_test.h"
#include "tests/fs/syscall_stops.h"

namespace outrigger::testing {
namespace {

class FsPoints : public FsTest, public ::testing::WithParamInterface<const char*> {
  protected:
    /// A run: which of them, and what the request is about.
    struct Run {
        size_t stops = 0;
        std::string name{};
        OpenFile file{};
        uint64_t node = 0;
        /// What somebody else does while the process stands still, about to be killed.
        std::function<void()> meanwhile{};
    };

    using Ask = std::function<FuseRequest(Run& run)>;
    using Verify = std::function<void(const Run& run, const FuseAnswer& answer)>;

    void SetUp() override {
        if (GetParam() != std::string_view("never") && !has_handles()) {
            GTEST_SKIP() << "no handles here, or not root";
        }
        serve({.arguments = {"--xattr",
                             "--poll-us=0",
                             std::string("--inode-file-handles=") + GetParam()},
               .keeper = true});
        // Whether it may be traced at all.
        EXPECT_EQ(error_of(ask::getattr(FUSE_ROOT_ID)), 0);
        const pid_t before = serving();
        const bool may_trace = SyscallStops::attach(before).has_value();  // and kills it
        wait_for_next(before);
        if (!may_trace) {
            GTEST_SKIP() << "processes may not be traced here";
        }
    }

    /// Until another process serves.
    void wait_for_next(pid_t before) {
        ASSERT_TRUE(eventually([&] { return serving() != before && serving() > 0; }));
        EXPECT_EQ(error_of(ask::getattr(FUSE_ROOT_ID)), 0);
    }

    /// Asks again and again, each time killed a stop later, until the answer comes before.
    void at_each_point(const Ask& ask_for, const Verify& verify, size_t queue = FuseGuest::kFirst) {
        constexpr size_t kStopsMax = 300;
        size_t stops = 1;
        for (bool is_answered = false; !is_answered; ++stops) {
            ASSERT_LT(stops, kStopsMax) << "it does not end";
            Run run{.stops = stops, .name = numbered("n", stops)};
            const FuseRequest request = ask_for(run);
            if (HasFatalFailure() || HasNonfatalFailure()) {
                FAIL() << "before the request with a kill at stop " << stops;
            }
            const pid_t before = serving();
            auto traced = SyscallStops::attach(before);
            ASSERT_TRUE(traced);
            const auto slot = guest().submit(request, queue);
            ASSERT_TRUE(slot);
            FuseAnswer answer;
            is_answered = !traced->run(stops, [&] {
                answer = guest().wait(*slot, queue, std::chrono::milliseconds(0));
                return answer.used;
            });
            if (!is_answered && run.meanwhile) {
                // The stop may be that of the call, behind the answer.
                answer = guest().wait(*slot, queue, std::chrono::milliseconds(0));
                if (!answer.used) {
                    run.meanwhile();
                }
            }
            traced->kill();
            if (!is_answered && !answer.used) {
                answer = guest().wait(*slot, queue);
            }
            ASSERT_TRUE(answer.used) << daemon().complained();
            wait_for_next(before);
            verify(run, answer);
            if (HasFatalFailure() || HasNonfatalFailure()) {
                FAIL() << "killed at stop " << stops << "\n" << daemon().complained();
            }
        }
        // Before and behind the call that does it, at least.
        EXPECT_GT(stops, 4U);
    }

    [[nodiscard]] std::string read(const OpenFile& file) {
        return call(ask::read(file.node, file.fh, 0, 100)).text();
    }

    static OpenFile opened(const FuseAnswer& answer) {
        return {.node = answer.as<fuse_entry_out>().nodeid,
                .fh = answer.as<fuse_open_out>(sizeof(fuse_entry_out)).fh};
    }

    /// Works as an open file does, and once.
    void use_up(const OpenFile& file) {
        EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, "used")), 0);
        EXPECT_EQ(read(file).substr(0, 4), "used");
        EXPECT_EQ(error_of(ask::flush(file.node, file.fh)), 0);
        EXPECT_EQ(error_of(ask::release(file.node, file.fh)), 0);
        EXPECT_EQ(error_of(ask::flush(file.node, file.fh)), EBADF);
    }

    /// Of user 1000, whose name root may take when the request has begun: it is root's then, and
    /// stays as it is.
    void at_each_point_where_root_comes_between(
        const std::function<FuseRequest(const std::string& name)>& ask_for,
        const std::function<void(const std::string& path)>& make) {
        ASSERT_EQ(::chmod(share().c_str(), 0777), 0);
        at_each_point(
            [&](Run& run) {
                run.meanwhile = [&make, path = in_share(run.name)] { make(path); };
                FuseRequest request = ask_for(run.name);
                request.uid = 1000;
                request.gid = 1000;
                return request;
            },
            [&](const Run& run, const FuseAnswer& answer) {
                struct stat status {};

                ASSERT_EQ(::lstat(in_share(run.name).c_str(), &status), 0);
                EXPECT_EQ(answer.error(), status.st_uid == 0 ? EEXIST : 0);
            });
    }

    void forget(uint64_t node, uint64_t count) {
        EXPECT_TRUE(guest().call(ask::forget(node, count), FuseGuest::kHighPriority).used);
    }

    [[nodiscard]] bool is_there(const std::string& name) const {
        struct stat status {};

        return ::lstat(in_share(name).c_str(), &status) == 0;
    }
};

TEST_P(FsPoints, Lookup) {
    at_each_point(
        [&](Run& run) {
            write_in_share(run.name, "x");
            run.node = run.stops % 2 == 0 ? node_of(run.name) : 0;
            return ask::lookup(FUSE_ROOT_ID, run.name);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            ASSERT_EQ(answer.error(), 0);
            const uint64_t node = answer.as<fuse_entry_out>().nodeid;
            if (run.node != 0) {
                EXPECT_EQ(node, run.node);
                forget(node, 1);
            }
            EXPECT_EQ(error_of(ask::getattr(node)), 0);
            EXPECT_EQ(node_of(run.name), node);
        });
}

TEST_P(FsPoints, Create) {
    at_each_point([](const Run& run) { return ask::create(FUSE_ROOT_ID, run.name, O_RDWR); },
                  [&](const Run& run, const FuseAnswer& answer) {
                      ASSERT_EQ(answer.error(), 0);
                      use_up(opened(answer));
                      EXPECT_EQ(read_in_share(run.name), "used");
                      EXPECT_EQ(node_of(run.name), opened(answer).node);
                  });
}

/// Root's, by the same name, when the request has begun: who asked may not have it.
TEST_P(FsPoints, CreateWhereSomebodyElseComesBetween) {
    ASSERT_EQ(::chmod(share().c_str(), 0777), 0);
    at_each_point(
        [&](Run& run) {
            run.meanwhile = [path = in_share(run.name)] {
                const UniqueFd made(
                    ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
                if (made.valid()) {
                    EXPECT_EQ(::write(made.get(), "secret", 6), 6);
                }
            };
            FuseRequest request = ask::create(FUSE_ROOT_ID, run.name, O_RDWR | O_TRUNC);
            request.uid = 1000;
            request.gid = 1000;
            return request;
        },
        [&](const Run& run, const FuseAnswer& answer) {
            struct stat status {};

            ASSERT_EQ(::stat(in_share(run.name).c_str(), &status), 0);
            EXPECT_EQ(answer.error(), status.st_uid == 0 ? EACCES : 0);
            EXPECT_EQ(read_in_share(run.name), status.st_uid == 0 ? "secret" : "");
        });
}

/// Whose file anybody may open: yet it is not the one that was asked for.
TEST_P(FsPoints, CreateOfANewFileWhereSomebodyElseComesBetween) {
    ASSERT_EQ(::chmod(share().c_str(), 0777), 0);
    at_each_point(
        [&](Run& run) {
            run.meanwhile = [path = in_share(run.name)] {
                const UniqueFd made(
                    ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
                if (made.valid()) {
                    EXPECT_EQ(::fchmod(made.get(), 0666), 0);
                    EXPECT_EQ(::write(made.get(), "another", 7), 7);
                }
            };
            FuseRequest request = ask::create(FUSE_ROOT_ID, run.name, O_RDWR | O_EXCL | O_TRUNC);
            request.uid = 1000;
            request.gid = 1000;
            return request;
        },
        [&](const Run& run, const FuseAnswer& answer) {
            struct stat status {};

            ASSERT_EQ(::stat(in_share(run.name).c_str(), &status), 0);
            EXPECT_EQ(answer.error(), status.st_uid == 0 ? EEXIST : 0);
            EXPECT_EQ(read_in_share(run.name), status.st_uid == 0 ? "another" : "");
        });
}

TEST_P(FsPoints, CreateOfWhatIsThereAlready) {
    at_each_point(
        [&](const Run& run) {
            write_in_share(run.name, "kept");
            return ask::create(FUSE_ROOT_ID, run.name, O_RDWR | O_EXCL);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            EXPECT_EQ(answer.error(), EEXIST);
            EXPECT_EQ(read_in_share(run.name), "kept");
        });
}

TEST_P(FsPoints, Tmpfile) {
    if (call(ask::tmpfile(FUSE_ROOT_ID, O_RDWR)).error() == EOPNOTSUPP) {
        GTEST_SKIP() << "the file system has no O_TMPFILE";
    }
    at_each_point([](const Run& /*run*/) { return ask::tmpfile(FUSE_ROOT_ID, O_RDWR); },
                  [&](const Run& run, const FuseAnswer& answer) {
                      ASSERT_EQ(answer.error(), 0);
                      // Made in the meantime, perhaps with the number of one that was lost.
                      const OpenFile other = create(run.name);
                      kill();
                      use_up(other);
                      use_up(opened(answer));
                  });
}

TEST_P(FsPoints, Open) {
    at_each_point(
        [&](Run& run) {
            write_in_share(run.name, "content");
            run.node = node_of(run.name);
            const FuseAnswer first = call(ask::open(run.node, O_RDWR));
            EXPECT_EQ(first.error(), 0);
            run.file = {.node = run.node, .fh = first.as<fuse_open_out>().fh};
            return ask::open(run.node, O_RDWR);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            ASSERT_EQ(answer.error(), 0);
            const OpenFile second = {.node = run.node, .fh = answer.as<fuse_open_out>().fh};
            EXPECT_NE(second.fh, run.file.fh);
            EXPECT_EQ(read(second), "content");
            use_up(run.file);
            use_up(second);
        });
}

TEST_P(FsPoints, Release) {
    at_each_point(
        [&](Run& run) {
            run.file = create(run.name, "content");
            return ask::release(run.file.node, run.file.fh);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            EXPECT_EQ(answer.error(), 0);
            EXPECT_EQ(error_of(ask::flush(run.file.node, run.file.fh)), EBADF);
            use_up(create(numbered("other", run.stops)));
        });
}

TEST_P(FsPoints, Mkdir) {
    at_each_point([](const Run& run) { return ask::mkdir(FUSE_ROOT_ID, run.name); },
                  [&](const Run& run, const FuseAnswer& answer) {
                      ASSERT_EQ(answer.error(), 0);
                      const uint64_t node = answer.as<fuse_entry_out>().nodeid;
                      EXPECT_EQ(node_of(run.name), node);
                      EXPECT_EQ(error_of(ask::mkdir(node, "inside")), 0);
                  });
}

/// Of a server whose clock is behind ours, a directory that was just made is born before the
/// request began: as one that takes its place is here.
TEST_P(FsPoints, MkdirWhereAnotherClockGoes) {
    at_each_point(
        [&](Run& run) {
            const std::string older = in_share(numbered("older", run.stops));
            std::filesystem::create_directory(older);
            run.meanwhile = [older, made = in_share(run.name)] {
                if (::rmdir(made.c_str()) == 0) {
                    std::filesystem::rename(older, made);
                }
            };
            return ask::mkdir(FUSE_ROOT_ID, run.name);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            ASSERT_EQ(answer.error(), 0);
            EXPECT_EQ(node_of(run.name), answer.as<fuse_entry_out>().nodeid);
        });
}

/// Programs take a directory that they made, or a link, for a lock that they have.
TEST_P(FsPoints, MkdirWhereSomebodyElseComesBetween) {
    at_each_point_where_root_comes_between(
        [](const std::string& name) { return ask::mkdir(FUSE_ROOT_ID, name); },
        [](const std::string& path) { (void)::mkdir(path.c_str(), 0777); });
}

TEST_P(FsPoints, MknodWhereSomebodyElseComesBetween) {
    at_each_point_where_root_comes_between(
        [](const std::string& name) { return ask::mknod(FUSE_ROOT_ID, name, S_IFIFO | 0600); },
        [](const std::string& path) { (void)::mkfifo(path.c_str(), 0666); });
}

TEST_P(FsPoints, SymlinkWhereSomebodyElseComesBetween) {
    at_each_point_where_root_comes_between(
        [](const std::string& name) { return ask::symlink(FUSE_ROOT_ID, name, "target"); },
        [](const std::string& path) { (void)!::symlink("target", path.c_str()); });
}

/// Whose owner tells nothing.
TEST_P(FsPoints, SymlinkWhereOneOfTheSameUserComesBetween) {
    at_each_point(
        [&](Run& run) {
            run.meanwhile = [path = in_share(run.name)] {
                (void)!::symlink("another", path.c_str());
            };
            return ask::symlink(FUSE_ROOT_ID, run.name, "target");
        },
        [&](const Run& run, const FuseAnswer& answer) {
            const auto target = std::filesystem::read_symlink(in_share(run.name));
            EXPECT_EQ(answer.error(), target == "another" ? EEXIST : 0);
        });
}

/// What cannot be labelled is not there afterwards, unless somebody else may have made it.
TEST_P(FsPoints, SymlinkWithoutItsLabelWhereOneLikeItComesBetween) {
    daemon().send_signal(SIGTERM);
    ASSERT_TRUE(daemon().wait().has_value());
    // Behind a name that symbolic links may not have.
    serve({.arguments = {"--xattr",
                         "--poll-us=0",
                         "--security-label=always",
                         "--xattrmap=:map::user.virtiofs.:",
                         std::string("--inode-file-handles=") + GetParam()},
           .keeper = true});
    bool came_between = false;
    at_each_point(
        [&](Run& run) {
            came_between = false;
            run.meanwhile = [&came_between, path = in_share(run.name)] {
                came_between = ::symlink("target", path.c_str()) == 0;
            };
            return ask::labelled(
                ask::symlink(FUSE_ROOT_ID, run.name, "target"), "security.selinux", "some_u:label");
        },
        [&](const Run& run, const FuseAnswer& answer) {
            if (came_between) {
                EXPECT_TRUE(answer.error() == EPERM || answer.error() == EEXIST) << answer.error();
                EXPECT_TRUE(is_there(run.name));
            } else {
                EXPECT_EQ(answer.error(), EPERM);
            }
        });
}

TEST_P(FsPoints, MknodWhereAnotherDeviceComesBetween) {
    constexpr uint32_t kWhiteout = 0;  // which needs no right to make devices
    at_each_point(
        [&](Run& run) {
            run.meanwhile = [path = in_share(run.name)] {
                (void)::mknod(path.c_str(), S_IFCHR | 0600, makedev(1, 3));
            };
            return ask::mknod(FUSE_ROOT_ID, run.name, S_IFCHR | 0600, kWhiteout);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            struct stat status {};

            ASSERT_EQ(::lstat(in_share(run.name).c_str(), &status), 0);
            EXPECT_EQ(answer.error(), status.st_rdev != kWhiteout ? EEXIST : 0);
        });
}

/// And one that was there before is none that the request made, however young it is.
TEST_P(FsPoints, MkdirOfWhatIsThereAlready) {
    at_each_point(
        [&](Run& run) {
            std::filesystem::create_directory(in_share(run.name));
            run.meanwhile = [there = in_share(run.name)] {
                EXPECT_EQ(::rmdir(there.c_str()), 0);
                std::filesystem::create_directory(there);
            };
            return ask::mkdir(FUSE_ROOT_ID, run.name);
        },
        [&](const Run& /*run*/, const FuseAnswer& answer) { EXPECT_EQ(answer.error(), EEXIST); });
}

TEST_P(FsPoints, Mknod) {
    at_each_point([](const Run& run) { return ask::mknod(FUSE_ROOT_ID, run.name, S_IFIFO | 0600); },
                  [&](const Run& run, const FuseAnswer& answer) {
                      ASSERT_EQ(answer.error(), 0);
                      EXPECT_EQ(node_of(run.name), answer.as<fuse_entry_out>().nodeid);
                  });
}

TEST_P(FsPoints, Symlink) {
    at_each_point([](const Run& run) { return ask::symlink(FUSE_ROOT_ID, run.name, "target"); },
                  [&](const Run& /*run*/, const FuseAnswer& answer) {
                      ASSERT_EQ(answer.error(), 0);
                      const uint64_t node = answer.as<fuse_entry_out>().nodeid;
                      EXPECT_EQ(call(ask::readlink(node)).text(), "target");
                  });
}

TEST_P(FsPoints, Link) {
    at_each_point(
        [&](Run& run) {
            run.file = create(run.name);
            return ask::link(run.file.node, FUSE_ROOT_ID, numbered("link", run.stops));
        },
        [&](const Run& run, const FuseAnswer& answer) {
            ASSERT_EQ(answer.error(), 0);
            EXPECT_EQ(answer.as<fuse_entry_out>().nodeid, run.file.node);
            EXPECT_EQ(answer.as<fuse_entry_out>().attr.nlink, 2U);
            forget(run.file.node, 1);
            use_up(run.file);
        });
}

TEST_P(FsPoints, UnlinkOfAnOpenFile) {
    at_each_point(
        [&](Run& run) {
            run.file = create(run.name, "content");
            return ask::unlink(FUSE_ROOT_ID, run.name);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            EXPECT_EQ(answer.error(), 0);
            EXPECT_FALSE(is_there(run.name));
            EXPECT_EQ(read(run.file), "content");
            kill();
            EXPECT_EQ(read(run.file), "content");
            use_up(run.file);
        });
}

TEST_P(FsPoints, Rmdir) {
    at_each_point(
        [&](const Run& run) {
            EXPECT_EQ(error_of(ask::mkdir(FUSE_ROOT_ID, run.name)), 0);
            return ask::rmdir(FUSE_ROOT_ID, run.name);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            EXPECT_EQ(answer.error(), 0);
            EXPECT_FALSE(is_there(run.name));
        });
}

TEST_P(FsPoints, RenameOverAnOpenFile) {
    at_each_point(
        [&](Run& run) {
            run.file = create("target", "replaced");
            use_up(create(run.name));
            return ask::rename(FUSE_ROOT_ID, run.name, FUSE_ROOT_ID, "target");
        },
        [&](const Run& run, const FuseAnswer& answer) {
            EXPECT_EQ(answer.error(), 0);
            EXPECT_FALSE(is_there(run.name));
            EXPECT_EQ(read_in_share("target"), "used");
            EXPECT_EQ(read(run.file), "replaced");
            use_up(run.file);
            EXPECT_EQ(error_of(ask::unlink(FUSE_ROOT_ID, "target")), 0);
        });
}

TEST_P(FsPoints, WriteAtTheEnd) {
    at_each_point(
        [&](Run& run) {
            run.file = create(run.name, "first", O_RDWR);
            FuseRequest request = ask::write(run.file.node, run.file.fh, 5, " second");
            fuse_write_in in{};
            std::memcpy(&in, request.arguments.data(), sizeof in);
            in.flags = O_RDWR | O_APPEND;
            std::memcpy(request.arguments.data(), &in, sizeof in);
            return request;
        },
        [&](const Run& run, const FuseAnswer& answer) {
            ASSERT_EQ(answer.error(), 0);
            EXPECT_EQ(answer.as<fuse_write_out>().size, 7U);
            EXPECT_EQ(read_in_share(run.name), "first second");
            use_up({.node = run.file.node, .fh = run.file.fh});
        });
}

TEST_P(FsPoints, SetxattrOfANewName) {
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    at_each_point(
        [&](Run& run) {
            run.file = create(run.name);
            return ask::setxattr(run.file.node, "user.a", "value", extended, XATTR_CREATE);
        },
        [&](const Run& run, const FuseAnswer& answer) {
            EXPECT_EQ(answer.error(), 0);
            EXPECT_EQ(call(ask::getxattr(run.file.node, "user.a", 100)).text(), "value");
            use_up(run.file);
        });
}

TEST_P(FsPoints, Removexattr) {
    const bool extended = (guest().init_flags() & FUSE_SETXATTR_EXT) != 0;
    at_each_point(
        [&](Run& run) {
            run.file = create(run.name);
            EXPECT_EQ(error_of(ask::setxattr(run.file.node, "user.a", "value", extended)), 0);
            return ask::removexattr(run.file.node, "user.a");
        },
        [&](const Run& run, const FuseAnswer& answer) {
            EXPECT_EQ(answer.error(), 0);
            EXPECT_EQ(error_of(ask::getxattr(run.file.node, "user.a", 100)), ENODATA);
            use_up(run.file);
        });
}

TEST_P(FsPoints, ReaddirplusOfTwoNamesOfAFile) {
    write_in_share("one", "x");
    std::filesystem::create_hard_link(in_share("one"), in_share("two"));
    const uint64_t node = node_of("one");
    const uint64_t listed = call(ask::opendir(FUSE_ROOT_ID)).as<fuse_open_out>().fh;
    at_each_point(
        [&](const Run& /*run*/) { return ask::readdirplus(FUSE_ROOT_ID, listed, 0, 4096); },
        [&](const Run& /*run*/, const FuseAnswer& answer) {
            ASSERT_EQ(answer.error(), 0);
            uint64_t count = 0;
            for (const auto& entry : entries_of(answer, true)) {
                count += entry.entry.nodeid == node ? 1 : 0;
            }
            EXPECT_EQ(count, 2U);
            // All that this listing has given, and no more.
            forget(node, count);
            EXPECT_EQ(error_of(ask::getattr(node)), 0);
        });
}

TEST_P(FsPoints, Forget) {
    at_each_point(
        [&](Run& run) {
            write_in_share(run.name, "x");
            run.node = node_of(run.name);
            (void)node_of(run.name);
            return ask::forget(run.node, 1);
        },
        [&](const Run& run, const FuseAnswer& /*answer*/) {
            EXPECT_EQ(error_of(ask::getattr(run.node)), 0);
        },
        FuseGuest::kHighPriority);
}

INSTANTIATE_TEST_SUITE_P(Inodes,
                         FsPoints,
                         ::testing::Values("never", "mandatory"),
                         [](const auto& one) { return std::string(one.param); });

}  // namespace
}  // namespace outrigger::testing
