# The user-data of the machines, one and the same for each. It needs no provider, so that what it
# makes can be looked at without an account: `terraform apply` in this directory.

terraform {
  required_version = ">= 1.5"
}

variable "name" {
  description = "The cluster's name."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]{1,32}$", var.name))
    error_message = "The name has 1 to 32 characters of a-z, 0-9 and '-'."
  }
}

variable "database" {
  description = "The database that is replicated; the cluster's name when not given."
  type        = string
  default     = null
}

variable "expect" {
  description = "How many machines found the cluster; later ones join it."
  type        = number

  validation {
    condition     = var.expect >= 1 && var.expect <= 16 && floor(var.expect) == var.expect
    error_message = "From 1 to 16 machines found a cluster."
  }
}

variable "seeds" {
  description = "Addresses or DNS names of the founding machines."
  type        = list(string)

  validation {
    condition     = length(var.seeds) > 0
    error_message = "Without seeds no machine finds another."
  }
}

variable "token" {
  description = "The join token: echo \"pgaa1.$(openssl rand -hex 4).$(openssl rand -hex 32)\""
  type        = string
  sensitive   = true

  validation {
    condition     = can(regex("^pgaa1\\.[0-9a-f]{8}\\.[0-9a-f]{64}$", var.token))
    error_message = "A join token is pgaa1.<8 hex digits>.<64 hex digits>."
  }
}

variable "package" {
  description = "Where the Debian package is fetched from at the first boot, and its SHA-256; null for an image that has it."
  type = object({
    url    = string
    sha256 = string
  })
  default = null

  validation {
    condition     = var.package == null ? true : can(regex("^[0-9a-f]{64}$", var.package.sha256))
    error_message = "The package's SHA-256 has 64 hex digits."
  }
}

locals {
  configuration = <<-TOML
    [cluster]
    name = ${jsonencode(var.name)}
    expect = ${var.expect}
    seeds = ${jsonencode(var.seeds)}

    [postgres]
    database = ${jsonencode(coalesce(var.database, var.name))}
  TOML

  baked = var.package == null

  # Before PostgreSQL is installed there is no group of that name; the package then gives it the
  # token that is there.
  token_file = local.baked ? { owner = "root:postgres", permissions = "0640" } : { owner = "root:root", permissions = "0600" }
  files = [
    { path = "/etc/pgaa/agent.toml", permissions = "0644", owner = "root:root", content = local.configuration },
    merge({ path = "/etc/pgaa/token", content = "${var.token}\n" }, local.token_file),
  ]

  # As cloud-init/user-data-install says it, with every reason.
  no_cluster = {
    path        = "/etc/postgresql-common/createcluster.d/pgaa.conf"
    permissions = "0644"
    owner       = "root:root"
    content     = "create_main_cluster = false\n"
  }
  download = local.baked ? null : [
    "/usr/lib/apt/apt-helper", "download-file", var.package.url, "/var/cache/pgaa-agent.deb", "SHA256:${var.package.sha256}",
  ]
  user_data = {
    write_files    = local.baked ? local.files : concat(local.files, [local.no_cluster])
    package_update = local.baked ? null : true
    packages       = local.baked ? null : ["postgresql-15", "postgresql-15-pglogical", "chrony"]
    runcmd         = local.baked ? null : [local.download, ["apt-get", "install", "--yes", "/var/cache/pgaa-agent.deb"]]
  }
}

output "user_data" {
  description = "One and the same for every machine. The join token in it is secret."
  value       = "#cloud-config\n${yamlencode({ for key, value in local.user_data : key => value if value != null })}"
  sensitive   = true
}
