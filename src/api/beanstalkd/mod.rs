//! The beanstalkd protocol.
