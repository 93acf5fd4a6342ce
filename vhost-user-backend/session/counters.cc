// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/counters.h"

namespace outrigger {

std::string_view describe(CloseReason reason) {
    switch (reason) {
        case CloseReason::kPeerClosed:
            return "the front end closed the connection";
        case CloseReason::kShutdown:
            return "the daemon ends the session";
        case CloseReason::kEndedMidMessage:
            return "the connection ended inside a message";
        case CloseReason::kBadVersion:
            return "a message of another protocol version";
        case CloseReason::kUnexpectedReply:
            return "a reply that nobody asked for";
        case CloseReason::kTooLarge:
            return "a message larger than any that the protocol has";
        case CloseReason::kPayloadSize:
            return "a message whose size does not fit its request";
        case CloseReason::kFdCount:
            return "a message with too many or too few file descriptors";
        case CloseReason::kTooManyFds:
            return "more file descriptors than a message can carry, or than can be received";
        case CloseReason::kFdsInsideMessage:
            return "file descriptors inside a message";
        case CloseReason::kStalled:
            return "a message was begun and not finished in time";
        case CloseReason::kReplyNotTaken:
            return "the front end does not read its replies";
        case CloseReason::kRefused:
            return "a request that cannot be answered";
        case CloseReason::kChannelViolated:
            return "on the back-end channel came something that answers no request";
        case CloseReason::kInBandAlone:
            return "in-band notifications without a back-end channel and acknowledgements";
        case CloseReason::kNotRestored:
            return "the process before left a session that cannot go on";
    }
    return "unknown";
}

std::string_view describe(Refusal refusal) {
    switch (refusal) {
        case Refusal::kUnknownRequest:
            return "unknown request";
        case Refusal::kNotServed:
            return "not offered by this device";
        case Refusal::kNotNegotiated:
            return "its feature was not negotiated";
        case Refusal::kFeatures:
            return "features that were not offered";
        case Refusal::kState:
            return "not possible in this state";
        case Refusal::kRingIndex:
            return "no ring of that index, or junk beside it";
        case Refusal::kRingSize:
            return "impossible ring size";
        case Refusal::kRingBase:
            return "impossible ring base";
        case Refusal::kRingAddress:
            return "impossible ring address";
        case Refusal::kRingEnable:
            return "neither 0 nor 1";
        case Refusal::kMemoryTable:
            return "impossible memory regions";
        case Refusal::kMemoryFile:
            return "the memory cannot be mapped";
        case Refusal::kNotificationFd:
            return "the file descriptor cannot carry notifications";
        case Refusal::kChannelFd:
            return "the file descriptor is no Unix stream socket that is connected to somebody "
                   "else";
        case Refusal::kConfigRange:
            return "outside the configuration space";
        case Refusal::kConfigValue:
            return "the configuration field cannot take that value";
        case Refusal::kStatus:
            return "impossible device status";
        case Refusal::kMtu:
            return "impossible MTU";
        case Refusal::kAddress:
            return "the address cannot be announced";
        case Refusal::kSharedObject:
            return "no such shared object";
        case Refusal::kDevice:
            return "the device cannot start the ring";
        case Refusal::kInflight:
            return "an in-flight buffer that does not fit the device, or that cannot be had";
        case Refusal::kInflightLog:
            return "the in-flight buffer is too small for the ring, or does not hold a log of it";
        case Refusal::kTranslation:
            return "impossible translation";
        case Refusal::kDirtyLog:
            return "impossible dirty log";
        case Refusal::kStateTransfer:
            return "no such direction or phase of a device state transfer";
        case Refusal::kStateChannel:
            return "the file descriptor cannot carry a device state in that direction";
        case Refusal::kDeviceState:
            return "there is no device state, or none that is good";
        case Refusal::kUserfault:
            return "memory whose pages cannot come when they are touched";
    }
    return "unknown";
}

}  // namespace outrigger
