// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_options.h"

#include <array>
#include <string_view>

#include "devices/net/net_device.h"
#include "devices/net/rate_limit.h"

namespace outrigger::net {
namespace {

constexpr std::string_view kBackends[] = {
#ifdef OUTRIGGER_SLIRP
    "user",
#endif
    "tap",
    "switch",
    "stream",
    "dgram",
    "null",
    "loop"};

constexpr std::string_view kSwitchThreads[] = {"own", "shared"};

#ifdef OUTRIGGER_SLIRP
constexpr std::string_view kBackendDefault = "user";
#else
constexpr std::string_view kBackendDefault = "null";
#endif

constexpr std::string_view kOnOff[] = {"on", "off"};

constexpr std::array kOptions = {
    OptionSpec{.name = "backend",
               .kind = OptionKind::kChoice,
               .value_name = "KIND",
               .help =
                   "What the guest's frames go to: user, a network of its own behind a NAT "
                   "(where the build has it); tap, an interface of the host; switch, those of "
                   "other devices of this program; stream, a program at "
                   "a Unix stream socket "
                   "(passt, QEMU, gvproxy); dgram, one at a Unix datagram socket (vfkit, QEMU); "
                   "null, nothing; loop, back to the guest",
               .default_value = kBackendDefault,
               .choices = kBackends},
#ifdef OUTRIGGER_SLIRP
    OptionSpec{.name = "forward",
               .value_name = "RULE",
               .help = "Of user: lead a port of the host to one of the guest, "
                       "tcp|udp:[ADDRESS:]PORT-[GUEST:]PORT, as in tcp:2222-22. Without ADDRESS "
                       "only programs of this host reach it; without GUEST it is the first address "
                       "that DHCP gives; IPv6 addresses are in brackets, and name both. May be "
                       "given several times",
               .repeatable = true},
    OptionSpec{.name = "dns",
               .value_name = "ADDRESS[:PORT]",
               .help = "Of user: the server that answers for the guest's name server; may be given "
                       "once for IPv4 and once for IPv6. Without it they are the first of "
                       "/etc/resolv.conf",
               .repeatable = true},
    OptionSpec{.name = "search",
               .value_name = "DOMAIN",
               .help =
                   "Of user: tell the guest to look for names in this domain, too; may be given "
                   "several times",
               .repeatable = true},
    OptionSpec{.name = "host-name",
               .value_name = "NAME",
               .help = "Of user: the name that DHCP tells the guest"},
    OptionSpec{.name = "ipv4",
               .value_name = "NETWORK",
               .help = "Of user: the guest's network; station 2 is the router, 3 the name server, "
                       "and 15 the first guest. none: no IPv4",
               .default_value = "10.0.2.0/24"},
    OptionSpec{.name = "ipv6",
               .value_name = "NETWORK",
               .help = "Of user: the guest's network, with the same stations. none: no IPv6",
               .default_value = "fec0::/64"},
    OptionSpec{.name = "host-loopback",
               .kind = OptionKind::kChoice,
               .value_name = "WHEN",
               .help = "Of user: let the guest reach servers of this host that listen on its "
                       "loopback address, by the address of the router",
               .default_value = "off",
               .choices = kOnOff},
    OptionSpec{.name = "max-connections",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Of user: have at most N sockets of the host open for the guest's "
                       "connections, datagrams and pings; forwarded ports do not count",
               .default_value = "1023",
               .number_min = 1,
               .number_max = 16384},
    OptionSpec{.name = "merge",
               .kind = OptionKind::kChoice,
               .value_name = "WHEN",
               .help = "Of user: give the guest segments of TCP that follow one another as one "
                       "frame, where it takes such (GUEST_TSO4, GUEST_TSO6). off is for guests "
                       "that stop taking them without a word to us, as those do that load an XDP "
                       "program behind QEMU",
               .default_value = "on",
               .choices = kOnOff},
    OptionSpec{
        .name = "restricted",
        .kind = OptionKind::kFlag,
        .help = "Of user: the guest reaches nothing, and is reached at forwarded ports only"},
#endif
    OptionSpec{.name = "tap",
               .value_name = "NAME",
               .help = "Of tap: the interface. One that is not there is made, if we may, and goes "
                       "with us. With several --queue-pairs it has a queue for each, where it can "
                       "(ip tuntap: multi_queue)"},
    OptionSpec{.name = "tap-fd",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help =
                   "Of tap: take the interface from inherited descriptor N. Given once for each "
                   "of --queue-pairs, they are the interface's queues (IFF_MULTI_QUEUE); of a "
                   "macvtap give one alone",
               .number_min = 3,
               .number_max = 1 << 20,
               .repeatable = true},
    OptionSpec{.name = "switch",
               .value_name = "NAME",
               .help = "Of switch: which one; devices that name the same reach each other",
               .default_value = "switch"},
    OptionSpec{.name = "switch-addresses",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Of switch: learn at most N stations behind a port; the switch's first "
                       "device decides",
               .default_value = "64",
               .number_min = 1,
               .number_max = 65536},
    OptionSpec{.name = "switch-age",
               .kind = OptionKind::kNumber,
               .value_name = "SECONDS",
               .help = "Of switch: forget a station that has not sent for so long; the switch's "
                       "first device decides",
               .default_value = "300",
               .number_min = 1,
               .number_max = 1'000'000},
    OptionSpec{.name = "flood-limit",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Of switch: pass at most N frames a second on to everybody, which are those "
                       "to everybody, to groups, and to stations that nobody knows; one of more "
                       "than 1518 bytes counts as several",
               .default_value = "10000",
               .number_min = 1,
               .number_max = 100'000'000},
    OptionSpec{.name = "switch-thread",
               .kind = OptionKind::kChoice,
               .value_name = "WHOSE",
               .help =
                   "Of switch: own, a thread for each device; or shared, one for all devices of "
                   "the switch that say so, made as the first of them says (--cpus, --poll-us): "
                   "frames between these are copied once, from ring to ring, and need no other "
                   "processor",
               .default_value = "own",
               .choices = kSwitchThreads},
    OptionSpec{.name = "switch-tap",
               .value_name = "NAME",
               .help = "Of switch: have a way out to the host, at this interface, for all devices "
                       "of the switch; one of these may. As --tap otherwise"},
    OptionSpec{.name = "switch-tap-fd",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Of switch: likewise, from inherited descriptor N",
               .number_min = 3,
               .number_max = 1 << 20},
    OptionSpec{.name = "peer",
               .value_name = "PATH",
               .help = "Of stream and dgram: connect to the program that has this socket, and try "
                       "again when it is not there or has gone"},
    OptionSpec{.name = "listen",
               .value_name = "PATH",
               .help = "Of stream: let a program connect here, one at a time. Of dgram: take "
                       "frames at this socket, and without --peer answer to whoever sends first "
                       "and has its socket in the same folder"},
    OptionSpec{.name = "listen-fd-name",
               .value_name = "NAME",
               .help = "Of stream and dgram: take the socket of --listen from the service manager, "
                       "as --fd-name does, and make none"},
    OptionSpec{.name = "reconnect-ms",
               .kind = OptionKind::kNumber,
               .value_name = "MS",
               .help = "Of stream and dgram: try to connect to --peer again after so many "
                       "milliseconds",
               .default_value = "1000",
               .number_min = 10,
               .number_max = 600'000},
    OptionSpec{.name = "vfkit",
               .kind = OptionKind::kFlag,
               .help =
                   "Of dgram: say VFKT to the program at --peer first, as gvproxy wants to hear "
                   "it"},
    OptionSpec{.name = "limit-send-bytes",
               .kind = OptionKind::kSize,
               .value_name = "SIZE",
               .help = "Pass at most SIZE bytes a second from the guest on, with bursts of a tenth "
                       "of that; what is more waits",
               .number_min = 1,
               .number_max = kPerSecondMax},
    OptionSpec{.name = "limit-send-frames",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Likewise N frames; one that is cut on its way counts as what it becomes",
               .number_min = 1,
               .number_max = kPerSecondMax},
    OptionSpec{.name = "limit-receive-bytes",
               .kind = OptionKind::kSize,
               .value_name = "SIZE",
               .help = "Likewise SIZE bytes to the guest",
               .number_min = 1,
               .number_max = kPerSecondMax},
    OptionSpec{.name = "limit-receive-frames",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help = "Likewise N frames to the guest",
               .number_min = 1,
               .number_max = kPerSecondMax},
    OptionSpec{.name = "allow-mac",
               .value_name = "MAC",
               .help = "Drop what the guest sends as any other station, in Ethernet, ARP and "
                       "neighbour discovery; may be given several times",
               .repeatable = true},
    OptionSpec{.name = "allow-ip",
               .value_name = "ADDRESS[/BITS]",
               .help =
                   "Drop what the guest sends from any other address of IPv4 or IPv6, says of "
                   "one in ARP and neighbour discovery, or sends by other protocols, and router "
                   "advertisements; may be given several times",
               .repeatable = true},
    OptionSpec{.name = "mac",
               .value_name = "MAC",
               .help = "The guest's address, for front ends that ask for it. QEMU does not: there "
                       "it is the property of the device"},
    OptionSpec{.name = "mtu",
               .kind = OptionKind::kNumber,
               .value_name = "BYTES",
               .help = "Largest packet of the guest's link, for front ends that ask for it (QEMU: "
                       "host_mtu)",
               .default_value = "1500",
               .number_min = kMtuMin,
               .number_max = 65535},
    OptionSpec{.name = "queue-pairs",
               .kind = OptionKind::kNumber,
               .value_name = "N",
               .help =
                   "Pairs of receive and transmit rings. More than one needs a front end that has "
                   "a control queue, such as QEMU, or passes it on",
               .default_value = "1",
               .number_min = 1,
               .number_max = kQueuePairsMax},
};

}  // namespace

constinit const std::span<const OptionSpec> kNetOptions = kOptions;

}  // namespace outrigger::net
