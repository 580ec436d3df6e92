variable "name" {
  description = "The cluster's name; the machines are called <name>-01, <name>-02 and so on."
  type        = string
  default     = "shop"
}

variable "database" {
  description = "The database that is replicated; the cluster's name when not given."
  type        = string
  default     = null
}

variable "instances" {
  description = "How many machines. More can be added later; fewer only after `pgaa-agent leave` there."
  type        = number
  default     = 3

  validation {
    condition     = var.instances >= 1 && var.instances <= 16 && floor(var.instances) == var.instances
    error_message = "A mesh has from 1 to 16 machines."
  }
}

variable "expect" {
  description = "How many machines found the cluster: what `instances` is at first. Leave it as it was when machines are added."
  type        = number
  default     = null
}

variable "regions" {
  description = "One or two of Vultr's regions; the machines are spread over them in turn."
  type        = list(string)
  default     = ["fra"]

  validation {
    condition     = length(var.regions) == 1 || length(var.regions) == 2
    error_message = "One region or two."
  }
}

variable "plan" {
  description = "Vultr's plan of each machine."
  type        = string
  default     = "vc2-2c-4gb"
}

variable "snapshot_id" {
  description = "A snapshot that has the package, made by packaging/image/vultr.pkr.hcl; null to install it at the first boot."
  type        = string
  default     = null
}

variable "package" {
  description = "Where the package is fetched from at the first boot, and its SHA-256; null with a snapshot that has it."
  type = object({
    url    = string
    sha256 = string
  })
  default = null
}

variable "ssh_key_ids" {
  description = "Keys, as Vultr knows them, that may log in as root."
  type        = list(string)
  default     = []
}

variable "ssh_from" {
  description = "IPv4 networks that may log in."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.ssh_from : can(cidrhost(cidr, 0))])
    error_message = "Networks are written as 203.0.113.0/24."
  }
}

variable "clients_from" {
  description = "IPv4 networks of the applications that use the database; none by default."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.clients_from : can(cidrhost(cidr, 0))])
    error_message = "Networks are written as 203.0.113.0/24."
  }
}
