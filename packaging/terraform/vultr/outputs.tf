output "status" {
  description = "What is so, asked of any of them."
  value       = { for name, address in local.addresses : name => "ssh root@${address} pgaa-agent status" }
}

output "addresses" {
  description = "Where each machine is reached."
  value       = local.addresses
}

output "user_data" {
  description = "What every machine booted with. The join token in it is secret."
  value       = module.user_data.user_data
  sensitive   = true
}
